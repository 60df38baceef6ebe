"""The models and rows that the training benchmarks share: real classes, random weights, real length spread.

40 % short answers of 1 to 5 tokens, 30 % captions of 150 to 300, 30 % conversations of 100 to 600 over their
turns, a fifth of these (6 % of all) without a picture. Every word is one token, so lengths are exact.
"""

import itertools
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from sharecap.chat.templates import VICUNA_V1, exchanges
from sharecap.data.rows import read_rows, write_rows
from sharecap.model import folder
from sharecap.model.build import Llava, Parts, build
from sharecap.records import Conversation, Turn

VOCABULARY = 4096
PATCH = 16
SPECIAL = ["<unk>", "<s>", "</s>", "<pad>"]


@dataclass(frozen=True)
class Shape:
    """Widths and depths. A Llama's inner width is 8/3, a CLIP's 4 times the width; heads are 64 wide."""

    width: int
    blocks: int
    tower_width: int
    tower_blocks: int


SHAPES = {"8m": Shape(256, 6, 128, 6), "100m": Shape(768, 12, 256, 8)}


def make_words() -> list[str]:
    """Made-up words of letters only."""
    syllables = ["".join(pair) for pair in itertools.product("bdfghklmnprstvz", "aeiou")]
    return ["".join(pair) for pair in itertools.product(syllables, repeat=2)][: VOCABULARY - 200]


def make_rows(count: int, pictures: list[str], seed: int = 0) -> list[Conversation]:
    """Rows in a random order; each row with a picture has one of its own."""
    rng, words, unused = random.Random(seed), make_words(), iter(pictures)

    def say(tokens: int) -> str:
        return " ".join(rng.choices(words, k=tokens))

    def talk(tokens: int) -> Iterator[Turn]:
        while tokens > 0:
            asked, answered = rng.randint(8, 20), rng.randint(40, 120)
            yield Turn("user", say(min(asked, max(1, tokens - 1))))
            yield Turn("assistant", say(max(1, min(answered, tokens - asked))))
            tokens -= asked + answered

    rows = []
    for number in range(count):
        kind = number % 50
        if kind < 20:
            turns = [Turn("user", say(12)), Turn("assistant", say(rng.randint(1, 5)))]
        elif kind < 35:
            turns = [Turn("user", say(6)), Turn("assistant", say(rng.randint(150, 300)))]
        else:
            turns = list(talk(rng.randint(100, 600)))
        if kind < 47:
            turns[0] = Turn("user", f"<image>\nba {turns[0].text}")
        rows.append(Conversation(f"{number}", (next(unused),) if kind < 47 else (), tuple(turns)))
    rng.shuffle(rows)
    return rows


def make_pictures(directory: Path, count: int) -> list[str]:
    """JPEGs of 336 x 252 pixels: names of their own, so that each is decoded, over 50 different files."""
    directory.mkdir()
    names = []
    for number in range(count):
        path = directory / f"{number}.jpg"
        if number < 50:
            coarse = np.random.default_rng(number).integers(0, 256, (12, 16, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((336, 252)).save(path, quality=85)
        else:
            os.link(directory / f"{number % 50}.jpg", path)
        names.append(str(path))
    return names


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each word with a space before it, and for each piece of the template."""
    cut = pre_tokenizers.ByteLevel(add_prefix_space=False)
    row = Conversation("", (), (Turn("user", "\nba"), Turn("assistant", "ba"), Turn("user", "ba")))
    texts = [text for e in exchanges(VICUNA_V1, row) for text in (e.given, e.said or "")]
    pieces = [piece for text in [*texts, "ASSISTANT:", "a", "\n"] for piece, _ in cut.pre_tokenize_str(text)]
    known = list(dict.fromkeys([*SPECIAL, *pieces, *(f"Ġ{word}" for word in make_words())]))
    inner = Tokenizer(models.WordLevel({token: i for i, token in enumerate(known)}, unk_token="<unk>"))
    inner.pre_tokenizer, inner.decoder = cut, decoders.ByteLevel()  # type: ignore[assignment]
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )


def make_model(directory: Path, shape: Shape, image_tokens: int, seed: int = 0) -> Llava:
    """A LLaVA of that shape from a CLIP tower and a Llama, saved to and loaded from `directory`."""
    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    side = PATCH * round(image_tokens**0.5)
    vision = CLIPVisionConfig(
        hidden_size=shape.tower_width,
        intermediate_size=4 * shape.tower_width,
        num_hidden_layers=shape.tower_blocks,
        num_attention_heads=shape.tower_width // 64,
        image_size=side,
        patch_size=PATCH,
    )
    language = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=shape.width,
        intermediate_size=round(shape.width * 8 / 3 / 16) * 16,
        num_hidden_layers=shape.blocks,
        num_attention_heads=shape.width // 64,
        max_position_embeddings=4096,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    CLIPVisionModel(vision).save_pretrained(directory / "vision")
    LlamaForCausalLM(language).save_pretrained(directory / "language")
    tokenizer.save_pretrained(directory / "language")
    made = build(Parts(directory / "vision", directory / "language"))
    folder.save(made, directory / "model")
    return made


def prepare(place: Path, shape: Shape, image_tokens: int, rows: int) -> int:
    """Write rows and start model below `place`; returns the number of parameters."""
    made = make_rows(rows, make_pictures(place / "pictures", rows))
    write_rows(place / "rows.json", made)
    model = make_model(place, shape, image_tokens).model
    return sum(p.numel() for p in model.parameters())


def rows_of(place: Path) -> list[Conversation]:
    return read_rows(place / "rows.json")
