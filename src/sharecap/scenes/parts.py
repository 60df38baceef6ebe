"""Tiny stand-ins for CLIP and Vicuna, made from scratch: the start that every arm of the quickstart shares.

The tower learns to tag pictures with what their alt-text would list, several objects at a time; the language
model learns from text alone. Both are saved as ordinary Hugging Face folders, as real ones would be.
"""

import random
import re
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, linear, normalize
from transformers import (
    AutoModelForCausalLM,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from sharecap.chat.templates import VICUNA_V1, exchanges
from sharecap.images.decode import open_rgb
from sharecap.model.build import Parts, build
from sharecap.model.trainable import Rule
from sharecap.records import Conversation
from sharecap.scenes.questions import LETTER, SHORT
from sharecap.scenes.world import (
    BACKGROUNDS,
    COLOURS,
    PLACES,
    SHAPES,
    SIZES,
    STYLES,
    TEXTURES,
    Scene,
    WorldSpec,
    names_of,
    read_truth,
    words_of,
)
from sharecap.train.config import TrainConfig
from sharecap.train.loop import train

PLACE_NAMES = tuple(place for row in PLACES for place in row)
KINDS = (SIZES, TEXTURES, COLOURS, SHAPES, PLACE_NAMES, BACKGROUNDS, STYLES)
"""Words that can stand for each other in a phrase."""

SET_PHRASES = (VICUNA_V1.system, SHORT, LETTER)
"""What template and benchmarks say again and again; in words, it is half of an instruction row's tokens."""

Phrase = tuple[str, ...]


@dataclass(frozen=True)
class TowerSpec:
    """The vision tower. Features are taken before the last of its blocks."""

    side: int = 96  # pixels
    patch: int = 32  # pixels; few image tokens learn fastest
    width: int = 128
    blocks: int = 4
    heads: int = 4
    init_std: float = 0.12  # about 1/sqrt(width): the library's 0.02 is made for widths of thousands
    steps: int = 600
    batch: int = 64  # pictures a step
    learning_rate: float = 2e-3
    sharpness: float = 20.0  # factor on the likeness of patch and phrase, a cosine as in CLIP
    seed: int = 0


@dataclass(frozen=True)
class LanguageSpec:
    """The language model, before it has learned anything."""

    family: Literal["llama", "qwen3"] = "llama"
    width: int = 128
    hidden: int = 128  # of a block's feed-forward part; wider ones cost time and learn no sooner
    blocks: int = 3
    heads: int = 4
    init_std: float = 0.1
    vocabulary: int = 1000  # most it may be; a small world needs less
    positions: int = 2048
    batch_rows: int = 16  # of one step
    learning_rate: float = 2e-3
    seed: int = 0


def make_language(
    rows: Sequence[Conversation],
    steps: int,
    spec: LanguageSpec,
    directory: Path,
    progress: Callable[[int], None],
) -> dict[str, Any]:
    """A language model that has read `rows`, none of which has a picture; saved to `directory`/model.

    It learns through the ordinary loop, behind a tower that is never asked.
    """
    untrained, blank = directory / "untrained", directory / "blank"
    save_untrained(make_tokenizer(rows, spec), spec, untrained)
    CLIPVisionModel(vision_config(TowerSpec(width=spec.width))).save_pretrained(blank)
    CLIPImageProcessorPil().save_pretrained(blank)
    config = TrainConfig(
        template="vicuna_v1",
        rules=(Rule("language", spec.learning_rate),),
        batch_rows=spec.batch_rows,
        steps=steps,
        seed=spec.seed,
    )
    llava = build(Parts(vision=blank, language=untrained))
    metrics = train(config, llava, rows, directory / "reading", lambda line, _: progress(line["step"]))
    trained: Any = fresh(llava.model.config.text_config)
    trained.model.load_state_dict(llava.model.model.language_model.state_dict())
    trained.lm_head.load_state_dict(llava.model.lm_head.state_dict())
    trained.save_pretrained(directory / "model")
    llava.tokenizer.save_pretrained(directory / "model")
    for used in (untrained, blank, directory / "reading"):
        shutil.rmtree(used)
    return metrics


def make_tokenizer(rows: Sequence[Conversation], spec: LanguageSpec) -> PreTrainedTokenizerFast:
    """The words of the rows, the most frequent first, are one token each, and so are the set phrases.

    Other words are told in bytes. Learned merges would fill half of the vocabulary with pieces of words that
    are never seen alone, and every token of it costs time at every place.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    split = re.compile("|".join(map(re.escape, SET_PHRASES))).split
    words = Counter(
        word
        for row in rows
        for piece in exchanges(VICUNA_V1, row)
        for text in split(piece.given + (piece.said or ""))
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)
    )
    pieces = ["<s>", "</s>", "<pad>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    # What begins a sentence, with a space before it, may also begin a text.
    first = Counter({word[1:]: count for word, count in words.items() if word[1:2].isupper()})
    often = (word for word, _ in (words | first).most_common() if len(word) > 1)
    pieces += islice(often, max(0, spec.vocabulary - len(pieces)))
    numbers = {piece: number for number, piece in enumerate(pieces)}
    tokenizer.model = models.BPE(numbers, [], ignore_merges=True)
    tokenizer.add_tokens([AddedToken(phrase, normalized=False) for phrase in SET_PHRASES])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", padding_side="left"
    )


def save_untrained(tokenizer: PreTrainedTokenizerFast, spec: LanguageSpec, directory: Path) -> None:
    """A language model of a few blocks with fresh weights, saved with its tokenizer."""
    torch.manual_seed(spec.seed)
    config = {"llama": LlamaConfig, "qwen3": Qwen3Config}[spec.family](
        vocab_size=len(tokenizer),
        hidden_size=spec.width,
        intermediate_size=spec.hidden,
        num_hidden_layers=spec.blocks,
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.heads,
        head_dim=spec.width // spec.heads,
        max_position_embeddings=spec.positions,
        initializer_range=spec.init_std,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = fresh(config)
    with torch.no_grad():
        # A token must stay louder than what the blocks add to it, else no block sees which one it is.
        model.model.embed_tokens.weight.div_(spec.init_std)
        for block in model.model.layers:
            for out in (block.self_attn.o_proj, block.mlp.down_proj):
                out.weight.mul_((2 * spec.blocks) ** -0.5)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def fresh(config: Any) -> Any:
    """A language model of that configuration with fresh weights."""
    make: Any = AutoModelForCausalLM.from_config
    return make(config)


def vision_config(spec: TowerSpec) -> CLIPVisionConfig:
    """The tower's shape."""
    return CLIPVisionConfig(
        hidden_size=spec.width,
        intermediate_size=4 * spec.width,
        num_hidden_layers=spec.blocks,
        num_attention_heads=spec.heads,
        image_size=spec.side,
        patch_size=spec.patch,
        initializer_range=spec.init_std,
    )


def phrases(scene: Scene) -> list[Phrase]:
    """What an alt-text would list: each thing with its attributes and place, and what else is to be seen."""
    things = [(t.size, t.texture, t.colour, t.shape, t.place) for t in scene.things]
    others = filter(None, (scene.background, scene.word, scene.name, scene.style))
    return [*things, *((word,) for word in others)]


def swapped(phrase: Phrase, rng: random.Random) -> Phrase:
    """The phrase with one of its words exchanged for another of the same kind."""
    at = rng.randrange(len(phrase))
    kind = next(words for words in KINDS if phrase[at] in words)
    return (*phrase[:at], rng.choice([word for word in kind if word != phrase[at]]), *phrase[at + 1 :])


class Pixels:
    """Pictures of one size, in memory, as a tower takes them."""

    def __init__(self, files: Sequence[Path], processor: Any) -> None:
        pictures = (np.asarray(open_rgb(file)).transpose(2, 0, 1) for file in files)
        self.raw_NCHW = torch.from_numpy(np.stack(list(pictures)))
        mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (processor.image_mean, processor.image_std))
        self.scale, self.shift = 1 / (255 * std), mean / std

    def __call__(self, chosen: Sequence[int]) -> Tensor:
        """These pictures [N, 3, height, width]."""
        return self.raw_NCHW[chosen].float().mul_(self.scale).sub_(self.shift)


class PatchProduct(nn.Module):
    """A convolution over patches that don't overlap, as one matrix product: a third of its time on a CPU."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution

    @property
    def weight(self) -> Tensor:
        """The convolution's [D, 3, side, side]; the tower looks here for its precision."""
        return self.convolution.weight

    def forward(self, pixels_NCHW: Tensor) -> Tensor:
        """[N, D, rows, columns] of [N, 3, rows * side, columns * side]."""
        side = self.convolution.kernel_size[0]
        n, channels, height, width = pixels_NCHW.shape
        cut = pixels_NCHW.view(n, channels, height // side, side, width // side, side)
        patches = cut.permute(0, 2, 4, 1, 3, 5)
        return linear(patches.flatten(3), self.weight.flatten(1)).permute(0, 3, 1, 2)


def make_tower(
    world: Path, kinds: WorldSpec, spec: TowerSpec, directory: Path, progress: Callable[[int], None]
) -> dict[str, float]:
    """Train a CLIP vision model against phrases of alt-text; save it with its image processor to `directory`.

    As in CLIP, a picture and a text are as like as their vectors; the text's is the sum of its words', and
    the patches (of the layer before the last) are compared one by one, so that features stay local.
    Returns the loss and the F1 of telling true phrases from false ones over the last steps.
    """
    torch.manual_seed(spec.seed)
    truths = list(read_truth(world))
    size = {"height": spec.side, "width": spec.side}
    processor = CLIPImageProcessorPil(size={"shortest_edge": spec.side}, crop_size=size)
    tower: Any = CLIPVisionModel(vision_config(spec))
    with torch.no_grad():
        # As initialised, a patch of 3,072 values drowns its place fifty to one, for good.
        tower.embeddings.patch_embedding.weight.mul_(spec.patch**-1.0 / spec.init_std)
        tower.embeddings.position_embedding.weight.mul_(0.5 / spec.init_std)
    last = tower.encoder.layers.pop(-1)  # nothing is taken from it, so nothing learns in it
    tower.embeddings.patch_embedding = PatchProduct(tower.embeddings.patch_embedding)
    words = [word for kind in (*KINDS, words_of(kinds), names_of(kinds)) for word in kind]
    numbers = {word: number for number, word in enumerate(words)}
    words_WD = nn.EmbeddingBag(len(words), spec.width, mode="sum")
    bias = nn.Parameter(torch.tensor(-spec.sharpness / 2))
    pixels = Pixels([world / truth.file for truth in truths], processor)
    told = [phrases(truth.scene) for truth in truths]
    parameters = [*tower.parameters(), *words_WD.parameters(), bias]
    optimiser = torch.optim.AdamW(parameters, lr=spec.learning_rate, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, spec.learning_rate, total_steps=spec.steps)
    rng = random.Random(spec.seed)
    hits = guesses = 0.0
    for step in range(spec.steps):
        chosen = rng.sample(range(len(truths)), spec.batch)
        said = {phrase for i in chosen for phrase in told[i]}
        said |= {swapped(phrase, rng) for phrase in sorted(said) if len(phrase) > 1}
        columns = {phrase: column for column, phrase in enumerate(sorted(said))}
        true_NP = torch.zeros(spec.batch, len(columns))
        for row, i in enumerate(chosen):
            true_NP[row, [columns[phrase] for phrase in told[i]]] = 1.0
        bags = [torch.tensor([numbers[word] for word in phrase]) for phrase in columns]
        starts = torch.tensor([0, *(len(bag) for bag in bags[:-1])]).cumsum(0)
        phrases_PD = normalize(words_WD(torch.cat(bags), starts), dim=-1)
        patches_NTD = tower(pixels(chosen), output_hidden_states=True).hidden_states[-1][:, 1:]
        likeness_NP = (normalize(patches_NTD, dim=-1) @ phrases_PD.T).amax(1)
        logits_NP = spec.sharpness * likeness_NP + bias
        loss = binary_cross_entropy_with_logits(logits_NP, true_NP, reduction="sum") / true_NP.sum()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        if step >= spec.steps * 0.95:
            hits += 2 * float(((logits_NP > 0) * true_NP).sum())
            guesses += float((logits_NP > 0).sum() + true_NP.sum())
        progress(step + 1)
    tower.encoder.layers.append(last)
    tower.embeddings.patch_embedding = tower.embeddings.patch_embedding.convolution
    tower.save_pretrained(directory)
    processor.save_pretrained(directory)
    return {"loss": loss.item(), "f1": hits / guesses if guesses else 0.0}
