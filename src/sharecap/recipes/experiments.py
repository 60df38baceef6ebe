"""The paper's experiments, a heading per table; each row is the base with something changed.

Figures are those of `docs/paper.md`. What the paper drew and did not print is told in words.
"""

from dataclasses import replace

from sharecap.recipes.design import Claim, Design, Experiment

BASE = Design()
"""ShareGPT4V-7B: the captioner's captions in pre-training, the teacher's among the instructions."""

PLAIN = replace(BASE, name="neither", pretrain="none", details="blind")
"""LLaVA-1.5: alignment and instruction tuning."""


# Figure 2: the detailed rows of instruction tuning are replaced, one for one, by the teacher's.


def substitution() -> Experiment:
    """Four models, each with its own detailed rows and with the teacher's."""
    told = {
        "llava_7b": ("LLaVA-7B", "+222.8 MME, +2.7 MMBench"),
        "llava_1_5_7b": ("LLaVA-1.5-7B", "+6.2 MME, +1.0 MMBench"),
        "llava_1_5_13b": ("LLaVA-1.5-13B", "+22.0 MME, +1.3 MMBench"),
        "qwen_vl": ("Qwen-VL", "+22.3 MME, +1.5 MMBench"),
    }
    designs, claims = [], []
    for model, (name, paper) in told.items():
        own = replace(PLAIN, name=name, model=model)  # type: ignore[arg-type]
        better = replace(own, name=f"{name}, teacher's details", details="teacher")
        designs += [own, better]
        claims.append(Claim(better.name, own.name, paper))
    return Experiment(
        "substitution",
        "Better details among the instructions",
        "Figure 2",
        "Replace the few detailed descriptions among a model's instruction rows by a strong teacher's, one "
        "for one, and the model gets better.",
        tuple(designs),
        tuple(claims),
        "A few percent of rows are worth rewriting before anything else is changed.",
        note="Qwen's stand-in is a language model of Qwen's kind behind the same tower. The first LLaVA's "
        "has one matrix as projector, and the 13B's a wider language model.",
    )


# Table 4: where the captions help.


def where_captions_help() -> Experiment:
    """Neither stage, instruction tuning only, pre-training only, both."""
    return Experiment(
        "where_captions_help",
        "In which stage captions help",
        "Table 4",
        "Detailed captions help in pre-training, help among the instructions, and help most in both.",
        (
            PLAIN,
            replace(PLAIN, name="instructions only", details="teacher"),
            replace(BASE, name="pre-training only", details="blind"),
            BASE,
        ),
        (
            Claim("instructions only", "neither", "+31.4 MME, +2.5 MMBench, +0.5 SEED"),
            Claim("pre-training only", "neither", "+46.5 MME, +3.1 MMBench, +2.3 SEED"),
            Claim("both", "pre-training only", "+10.2 MME, +1.4 MMBench, +1.2 SEED"),
            Claim("both", "neither", "+56.7 MME, +4.5 MMBench, +3.5 SEED"),
        ),
        "Captions belong in both stages; most of the gain comes from pre-training.",
        note="A model without pre-training has also had fewer steps, as in the paper; `alternatives` holds "
        "one that spends them on questions.",
    )


# Table 5: the quality of captions in pre-training.


def caption_quality() -> Experiment:
    """The same images in the same steps, with short captions or the captioner's."""
    return Experiment(
        "caption_quality",
        "Short or detailed captions of the same images",
        "Table 5",
        "With images, steps and everything else the same, detailed captions in pre-training make a better "
        "model than short ones.",
        (
            replace(BASE, name="short captions", pretrain="short"),
            replace(BASE, name="captioner's captions", short_ones=True),
        ),
        (Claim("captioner's captions", "short captions", "+18.2 MME"),),
        "A detailed caption of an image is worth its price.",
    )


# Figure 6: the number of captions.


def number_of_captions() -> Experiment:
    """A curve from a twelfth of the images to all of them."""
    shares = {"a twelfth": 1 / 12, "a quarter": 1 / 4, "half": 1 / 2, "five sixths": 5 / 6, "all": 1.0}
    return Experiment(
        "number_of_captions",
        "How many captions",
        "Figure 6",
        "More captioned images make a better model, with less and less to gain towards the end.",
        tuple(replace(BASE, name=name, images=share) for name, share in shares.items()),
        (
            Claim("all", "a twelfth", "rises from 100K to 1,200K captions"),
            Claim("all", "five sixths", "rises little beyond 1,000K", equal=True),
        ),
        "Caption more as long as it is cheap, and stop where the curve gets flat.",
        curve="images",
        note="The steps are the same for all, so fewer images are seen more often; the paper saw each once.",
    )


# Table 6: the vision blocks that learn in pre-training.


def vision_blocks() -> Experiment:
    """None, a quarter, half, three quarters, all."""
    shares = {"none": 0.0, "a quarter": 0.25, "half": 0.5, "three quarters": 0.75, "all": 1.0}
    return Experiment(
        "vision_blocks",
        "How much of the vision tower learns",
        "Table 6",
        "Letting the latter half of the vision tower learn in pre-training makes a better model than a "
        "frozen tower, and than letting all of it learn.",
        tuple(replace(BASE, name=name, tower=share) for name, share in shares.items()),
        (
            Claim("half", "none", "+52.2 MME, +2.2 MMBench, +1.6 SEED"),
            Claim("half", "all", "+21.7 MME, +0.3 MMBench, +0.5 SEED"),
        ),
        "Unfreeze half: it costs a seventh more memory than none.",
        curve="tower",
    )


# The journal version's questions: who writes the captions, and whether it must be captions.


def alternatives() -> Experiment:
    """Captions by people, by the teacher, by the captioner; questions in their place."""
    return Experiment(
        "alternatives",
        "Who writes, and whether it must be captions",
        "Extended version, abstract",
        "Detailed captions align better than questions and answers; those of the best models are about as "
        "good as people's, and a trained captioner's about as good as its teacher's.",
        (
            replace(BASE, name="questions", pretrain="questions"),
            replace(BASE, name="people's captions", pretrain="human"),
            replace(BASE, name="teacher's captions", pretrain="teacher"),
            replace(BASE, name="captioner's captions"),
        ),
        (
            Claim("captioner's captions", "questions", "better, in words"),
            Claim("teacher's captions", "people's captions", "close, in words", equal=True),
            Claim("captioner's captions", "teacher's captions", "similar, in words", equal=True),
        ),
        "Pay a teacher for a first set only, and let the captioner do the rest.",
        note="People's captions are told from the truth without a mistake; the teacher's have some.",
    )


# Table 2: how near a captioner comes to its teacher, and what words both use.


def captioner_and_teacher() -> Experiment:
    """Both on the same held-out pictures: facts against the truth, a blind comparison, their words."""
    return Experiment(
        "captioner_and_teacher",
        "A captioner beside its teacher",
        "Table 2",
        "A captioner that has learned from a strong teacher's captions writes captions of pictures it has "
        "never seen that are about as good as the teacher's own.",
        (),
        (
            Claim(
                "captioner",
                "teacher",
                "35.3 % prefer the captioner's, 38.2 % the teacher's, 26.5 % neither",
                equal=True,
                measure="preference",
            ),
            Claim("captioner", "teacher", equal=True, measure="facts"),
        ),
        "Have a teacher caption a first set only, and the captioner all the rest.",
        note="In the paper people compare. Here a judge does who knows the truth: it prefers the caption "
        "with the higher F1, however small the difference. The "
        "captioner has learned from a few thousand captions, the paper's from a hundred thousand.",
        captioners=("teacher", "captioner"),
    )


# The main table: the whole recipe, at two sizes of language model.


def main_table() -> Experiment:
    """LLaVA-1.5 and ShareGPT4V, 7B and 13B."""
    large = "llava_1_5_13b"
    return Experiment(
        "main_table",
        "The whole recipe",
        "Table 3",
        "The whole recipe makes a better model than LLaVA-1.5 of the same size, and the smaller one beats "
        "the larger LLaVA-1.5.",
        (
            replace(PLAIN, name="LLaVA-1.5-7B"),
            replace(PLAIN, name="LLaVA-1.5-13B", model=large),  # type: ignore[arg-type]
            replace(BASE, name="ShareGPT4V-7B"),
            replace(BASE, name="ShareGPT4V-13B", model=large),  # type: ignore[arg-type]
        ),
        (
            Claim("ShareGPT4V-7B", "LLaVA-1.5-7B", "+56.7 MME, +4.5 MMBench, +3.5 SEED"),
            Claim("ShareGPT4V-7B", "LLaVA-1.5-13B", "+36.1 MME, +1.1 MMBench, +1.5 SEED"),
            Claim("ShareGPT4V-13B", "LLaVA-1.5-13B", "+87.4 MME, +0.8 MMBench, +2.6 SEED"),
        ),
        "Better captions are worth more than a language model of twice the size.",
        note="The 13B's stand-in has a wider language model. Eleven benchmarks shrink to three.",
    )


# Beyond the paper.


def trimmed() -> Experiment:
    """The captioner's captions with and without their wrong sentences."""
    return Experiment(
        "trimmed",
        "Without the sentences that are wrong",
        "",
        "Captions without their wrong sentences make a better model than the same captions as they are.",
        (replace(BASE, name="as they are"), replace(BASE, name="trimmed", pretrain="trimmed")),
        (Claim("trimmed", "as they are"),),
        "Checking claims before training is worth its price.",
        note="What is wrong is known exactly here; a judge of real captions errs.",
    )


def blends() -> Experiment:
    """Alt-text in front of captions; short and detailed captions in turn."""
    return Experiment(
        "blends",
        "Captions beside other words",
        "",
        "Detailed captions mixed with alt-text or with short captions make about as good a model.",
        (
            replace(BASE, name="detailed"),
            replace(BASE, name="behind alt-text", pretrain="alt_text"),
            replace(BASE, name="short and detailed", pretrain="mixed"),
        ),
        (
            Claim("behind alt-text", "detailed", equal=True),
            Claim("short and detailed", "detailed", equal=True),
        ),
        "What the web wrote can stay.",
    )


def prompts() -> Experiment:
    """The teacher asked with prompts made for each source, and with one for all."""
    return Experiment(
        "prompts",
        "A prompt for each source",
        "",
        "A teacher who is asked for what each source has (texts, names, styles) writes captions that make a "
        "better model than one prompt for all.",
        (
            replace(BASE, name="one prompt", pretrain="one_prompt"),
            replace(BASE, name="a prompt for each source", pretrain="teacher"),
        ),
        (Claim("a prompt for each source", "one prompt"),),
        "Writing six prompts is the cheapest improvement of all.",
    )


def noise() -> Experiment:
    """Teachers who tell 2, 5, 10 and 20 % of attributes wrong."""
    rates = (0.02, 0.05, 0.10, 0.20)
    return Experiment(
        "noise",
        "How much wrong a model can stand",
        "",
        "A teacher's mistakes make the model worse.",
        tuple(replace(BASE, name=f"{rate:.0%} wrong", pretrain="teacher", mistakes=rate) for rate in rates),
        tuple(Claim("2% wrong", f"{rate:.0%} wrong") for rate in rates[1:]),
        "Count a cheaper teacher's mistakes before its price.",
        curve="mistakes",
    )


PAPER = (
    substitution,
    where_captions_help,
    caption_quality,
    number_of_captions,
    vision_blocks,
    alternatives,
    captioner_and_teacher,
    main_table,
)
BEYOND = (trimmed, blends, prompts, noise)
EXPERIMENTS = {make.__name__: make for make in (*PAPER, *BEYOND)}
"""All, by name, in the paper's order."""
