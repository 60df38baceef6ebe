"""Designs at the sizes of real models: a table as recipes whose rows share the stages before they part.

`paper` has the authors' models, files and values; `small` fits one GPU for some hours: language models of
half a billion parameters (1.5 for the 13B, 2 for Qwen-VL), and a tenth of the steps. A recipe's stages are
named by what decides them, so two rows that are trained alike are trained once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from sharecap.errors import UsageError
from sharecap.model.build import Parts
from sharecap.recipes import paper, published
from sharecap.recipes.design import MISTAKES, Captions, Design, Experiment, Model
from sharecap.recipes.llava import llava_1_5_7b, llava_1_5_13b, llava_7b
from sharecap.recipes.recipe import Recipe, Source, Stage
from sharecap.recipes.sharegpt4v import BLOCKS, tower_from
from sharecap.train.config import TrainConfig

Size = Literal["small", "paper"]

QWEN = Path("models/Qwen3-VL-8B-Instruct")
"""Where a whole Qwen-VL is looked for, of the family that can be trained here (the paper's is the first one);
`--set parts=` names another place."""

BASES = {"llava_7b": llava_7b, "llava_1_5_7b": llava_1_5_7b, "llava_1_5_13b": llava_1_5_13b}

CAPTIONS: dict[Captions, Source] = {
    "short": published.LLAVA_LCS_558K,
    "captioner": published.SHAREGPT4V_PT,
    "questions": published.LLAVA_MIX_665K,
}
"""Published files; all others are made by the user, and named so."""

SHORT_ONES = replace(
    published.SHAREGPT4V_PT,
    file="own/captioner_lcs_558k.json",
    kinds=(replace(published.SHAREGPT4V_PT.kinds[0], rows=published.LLAVA_LCS_558K.kinds[0].rows),),
    origin="made by you: the rows of share-captioner_coco_lcs_sam_1246k_1107.json whose image is in "
    "llava/llava_pretrain",
)
"""Captions of the images that have short ones too (Table 5)."""

SMALL_LANGUAGE = {"llava_1_5_13b": "Qwen/Qwen2.5-1.5B-Instruct"}
SMALL_STEPS = 0.1

CAPTIONER_BESIDE_TEACHER = (
    "a captioner beside its teacher, on images that it hasn't learned from",
    "  sharecap captioner train DATASET teacher --from MODEL --to runs/captioner",
    "  sharecap caption HELDOUT --teacher local:runs/captioner/all/model --prompts unified --layer captioner",
    "  sharecap caption HELDOUT --teacher TEACHER --layer teacher",
    "  sharecap prefer HELDOUT captioner teacher --judge JUDGE",
    "  sharecap quality HELDOUT teacher captioner",
)
"""Table 2 needs no recipe: each of its steps is a command."""


@dataclass(frozen=True)
class Tree:
    """The stages of several designs of one model."""

    stages: dict[str, Stage]

    def add(self, stage: Stage) -> str:
        """Put it in unless it is there; returns its name."""
        self.stages.setdefault(stage.name, stage)
        return stage.name


def recipes_of(experiment: Experiment, size: str) -> list[Recipe]:
    """The table's recipes, one for each model in it; `UsageError` for a size that isn't known."""
    if size not in ("small", "paper"):
        raise UsageError(f"unknown size {size!r}", todo="sizes: scenes, small, paper")
    models = dict.fromkeys(design.model for design in experiment.designs)  # none where captions are compared
    return [
        recipe_of(experiment.name, model, [x for x in experiment.designs if x.model == model], size)
        for model in models
    ]


def recipe_of(name: str, model: Model, designs: Sequence[Design], size: str) -> Recipe:
    """One model's rows of a table as one recipe."""
    tree = Tree({})
    for design in designs:
        before = ""
        for stage in stages_of(design, size):
            before = tree.add(replace(stage, start=before))
    return Recipe(f"{name}:{size}:{model}", parts_of(model, size), tuple(tree.stages.values()))


def parts_of(model: Model, size: str) -> Parts | Path:
    """What a model is put together from."""
    if model == "qwen_vl":
        return QWEN if size == "paper" else QWEN.with_name("Qwen3-VL-2B-Instruct")
    parts = BASES[model]().parts
    if size == "paper" or isinstance(parts, Path):
        return parts
    return replace(parts, language=SMALL_LANGUAGE.get(model, "Qwen/Qwen2.5-0.5B-Instruct"))


def stages_of(design: Design, size: str) -> Iterator[Stage]:
    """A design's stages in order, each to start from the one before."""
    base = BASES.get(design.model, llava_1_5_7b)()
    if design.model != "qwen_vl":  # which is aligned when it comes
        align = base.stage("align")
        yield replace(align, train=sized(align.train, align.rows, size))
    # A Qwen-VL talks in its own template, and takes pictures whole.
    own = {"template": "own", "centre_crop": False} if design.model == "qwen_vl" else {}
    if design.pretrain != "none":
        train = tower_from(paper.pretrain(), round((1 - design.tower) * BLOCKS))
        told, passes = (captions_of(design),), design.images
        if design.pretrain == "questions":  # in the steps that captions have: only what is read differs
            train = replace(train, template="vicuna_v1")
            passes *= rows_in((published.SHAREGPT4V_PT,)) / rows_in(told)
        train = replace(sized(train, told, size, passes), **own)  # type: ignore[arg-type]
        yield Stage("pretrain-" + slug(design, told=False), train, told)
    sft = base.stage("sft")
    rows = details_of(design) if design.details == "teacher" else sft.rows
    train = replace(sized(sft.train, rows, size), **own)  # type: ignore[arg-type]
    yield Stage("sft-" + slug(design, told=True), train, rows)


def sized(train: TrainConfig, rows: Sequence[Source], size: str, passes: float = 1.0) -> TrainConfig:
    """The stage with so many times the steps that these rows take, and a tenth of them if it is small."""
    passes *= SMALL_STEPS if size == "small" else 1.0
    if passes == 1.0:
        return train
    assert train.batch_rows is not None, "the paper's recipes count rows"
    steps = round(passes * rows_in(rows) * (train.epochs or 1) / train.batch_rows)
    return replace(train, epochs=None, steps=max(1, steps))


def rows_in(sources: Sequence[Source]) -> int:
    """As published."""
    return sum(kind.rows for source in sources for kind in source.kinds)


def captions_of(design: Design) -> Source:
    """The file that pre-training reads."""
    if design.short_ones:
        return SHORT_ONES
    if design.pretrain in CAPTIONS:
        return CAPTIONS[design.pretrain]
    wrong = f"-{design.mistakes:g}-wrong" if design.mistakes != MISTAKES else ""
    made = "caption, mix or curate with sharecap, then export --format llava"
    if wrong:
        made = f"your teacher's captions with {design.mistakes:.0%} of what they state changed"
    file = f"own/{design.pretrain}{wrong}.json"
    return replace(published.SHAREGPT4V_PT, file=file, origin=f"made by you: {made}")


def details_of(design: Design) -> tuple[Source, ...]:
    """Instruction rows whose detailed ones are the teacher's."""
    if design.model != "llava_7b":
        return (published.SHAREGPT4V_MIX_665K,)
    own = published.LLAVA_INSTRUCT_158K
    todo = "made by you from llava_instruct_158k.json and the 100K: sharecap mix"
    return (replace(own, file="own/llava_instruct_158k_cap23k.json", origin=todo),)


def slug(design: Design, *, told: bool) -> str:
    """A stage's name from what decides it; `told`: the instruction rows too."""
    parts: list[str] = [design.pretrain] if design.pretrain != "none" else ["plain"]
    if design.pretrain != "none":
        parts.append("short_ones" if design.short_ones else "")
        parts += [f"{design.images:.3g}" if design.images != 1 else "", f"tower{design.tower:g}"]
        parts.append(f"wrong{design.mistakes:g}" if design.mistakes != MISTAKES else "")
    return "-".join(part for part in (*parts, design.details if told else "") if part)


def command_lines(typed: str, experiment: Experiment, size: str) -> list[str]:
    """For people: what to type on a machine with GPUs for the experiment that they `typed` so."""
    lines = list(CAPTIONER_BESIDE_TEACHER) if experiment.captioners else []
    for recipe in recipes_of(experiment, size):
        model = recipe.name.rpartition(":")[2]
        name, to = f"lab:{typed}:{size}:{model}", f"runs/lab/{recipe.name.replace(':', '/')}"
        train = f"{name} --data DATA --to {to}"
        lines.append(f"{recipe.name}: {len(recipe.stages)} stages")
        if size == "small":
            lines += [f"  sharecap plan {name} --gpus 1", f"  sharecap train {train}"]
        else:
            lines += [
                f"  sharecap plan {name}",
                f"  torchrun --nproc-per-node 8 -m sharecap.cli train {train}",
                f"  sbatch examples/slurm/train.sbatch {train}",
            ]
        models = [stage.name for stage in recipe.stages if stage.name.startswith("sft-")]
        lines += [f"  sharecap eval {to}/{model}/model --benchmarks BENCHMARKS" for model in models]
    return lines
