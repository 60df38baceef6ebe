"""Tiny stand-ins for CLIP and Vicuna, made from scratch: the start that every arm of the quickstart shares.

The tower learns to tag pictures with what their alt-text would list, several objects at a time; the language
model learns from text alone. Both are saved as ordinary Hugging Face folders, as real ones would be.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from sharecap.images.decode import open_rgb
from sharecap.scenes.world import (
    BACKGROUNDS,
    COLOURS,
    PLACES,
    SHAPES,
    SIZES,
    STYLES,
    TEXTURES,
    Scene,
    Truth,
    WorldSpec,
    names_of,
    words_of,
)


@dataclass(frozen=True)
class TowerSpec:
    """The vision tower. Features are taken before the last block, so the latter half of 4 blocks is 2 and 3."""

    side: int = 96  # pixels
    patch: int = 32  # pixels; few image tokens learn fastest
    width: int = 128
    blocks: int = 4
    heads: int = 4
    init_std: float = 0.12  # about 1/sqrt(width): the library's 0.02 is made for widths of thousands
    steps: int = 600
    batch: int = 64  # pictures a step
    learning_rate: float = 1e-3
    seed: int = 0


@dataclass(frozen=True)
class LanguageSpec:
    """The language model, before it has learned anything."""

    width: int = 128
    blocks: int = 3
    heads: int = 4
    init_std: float = 0.1
    vocabulary: int = 1000  # most it may be; a small world needs less
    positions: int = 1024
    seed: int = 0


def make_tokenizer(texts: Iterable[str], spec: LanguageSpec, directory: Path) -> PreTrainedTokenizerFast:
    """A byte-level BPE in which the frequent words are one token each; saved to `directory`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=spec.vocabulary,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken("</s>", normalized=False, special=True)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", padding_side="left"
    )
    fast.save_pretrained(directory)
    return fast


def make_language(tokenizer: PreTrainedTokenizerFast, spec: LanguageSpec, directory: Path) -> None:
    """An untrained Llama of a few blocks, saved with its tokenizer to `directory`."""
    torch.manual_seed(spec.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=spec.width,
        intermediate_size=4 * spec.width,
        num_hidden_layers=spec.blocks,
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.heads,
        max_position_embeddings=spec.positions,
        initializer_range=spec.init_std,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def tag_names(spec: WorldSpec) -> list[str]:
    """Everything that the tower learns to tag: what things are, where they are, and what else is to be seen."""
    places = [place for row in PLACES for place in row]
    things = [f"{c} {s} {z}" for c in COLOURS for s in SHAPES for z in SIZES]
    placed = [f"{what} {place}" for what in (*COLOURS, *SHAPES, *TEXTURES) for place in places]
    return [*things, *placed, *words_of(spec), *names_of(spec), *STYLES, *BACKGROUNDS]


def tags(scene: Scene) -> list[str]:
    """The tags of one scene."""
    things = [f"{t.colour} {t.shape} {t.size}" for t in scene.things]
    placed = [f"{what} {t.place}" for t in scene.things for what in (t.colour, t.shape, t.texture)]
    return [*things, *placed, *filter(None, (scene.word, scene.name, scene.style)), scene.background]


def make_tower(
    world: Path,
    truths: Sequence[Truth],
    kinds: WorldSpec,
    spec: TowerSpec,
    directory: Path,
    progress: Callable[[str], None],
) -> dict[str, float]:
    """Train a CLIP vision model to tag pictures; save it with its image processor to `directory`.

    Tag logits are read off every patch of the layer before the last, and the largest over the patches counts:
    features stay local. Returns the loss and F1 over the last steps.
    """
    torch.manual_seed(spec.seed)
    processor = CLIPImageProcessor(
        size={"shortest_edge": spec.side}, crop_size={"height": spec.side, "width": spec.side}
    )
    config = CLIPVisionConfig(
        hidden_size=spec.width,
        intermediate_size=4 * spec.width,
        num_hidden_layers=spec.blocks,
        num_attention_heads=spec.heads,
        image_size=spec.side,
        patch_size=spec.patch,
        initializer_range=spec.init_std,
    )
    tower = CLIPVisionModel(config)
    with torch.no_grad():
        # As initialised, a patch of 3,072 values drowns its place fifty to one, and no text ever finds it again.
        tower.embeddings.patch_embedding.weight.mul_(spec.patch**-1.0 / spec.init_std)
        tower.embeddings.position_embedding.weight.mul_(0.5 / spec.init_std)
    numbers = {name: number for number, name in enumerate(tag_names(kinds))}
    head = nn.Linear(spec.width, len(numbers))
    raw = np.stack([np.asarray(open_rgb(world / truth.file)) for truth in truths])
    pixels_NCHW = torch.from_numpy(raw).permute(0, 3, 1, 2)
    mean = torch.tensor(processor.image_mean).view(1, 3, 1, 1)
    std = torch.tensor(processor.image_std).view(1, 3, 1, 1)
    targets = torch.zeros(len(truths), head.out_features)
    for row, truth in enumerate(truths):
        targets[row, [numbers[name] for name in tags(truth.scene)]] = 1.0
    parameters = [*tower.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=spec.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, spec.learning_rate, total_steps=spec.steps)
    order = random.Random(spec.seed)
    hits = guesses = 0.0
    for step in range(spec.steps):
        chosen = order.sample(range(len(truths)), spec.batch)
        batch = (pixels_NCHW[chosen].float() / 255 - mean) / std
        features = tower(batch, output_hidden_states=True).hidden_states[-2][:, 1:]
        logits = head(features).amax(1)
        loss = nn.functional.binary_cross_entropy_with_logits(logits, targets[chosen]) * 20
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        if step >= spec.steps * 0.95:
            hits += 2 * float(((logits > 0) * targets[chosen]).sum())
            guesses += float((logits > 0).sum() + targets[chosen].sum())
        if step % 50 == 0:
            progress(f"vision tower: step {step}/{spec.steps}, loss {loss.item():.3f}")
    tower.save_pretrained(directory)
    processor.save_pretrained(directory)
    return {"loss": loss.item(), "f1": hits / guesses if guesses else 0.0}
