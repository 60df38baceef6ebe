"""How fast one GPU trains a 7B-shaped LLaVA, what each measure brings, and the paper's pre-training in hours.

On a machine with a GPU (weights, gradients and AdamW's state are bf16, 54 GB at 7B; nothing is downloaded):

    python benchmarks/train_gpu.py --shape 7b --json figures.json

Random weights, sequences of pre-training (one picture, a caption of 150 to 300 tokens), whole steps in bf16.
Where memory is short, the first blocks of the language model stay frozen (`--frozen-blocks`); FLOPs are
counted for what is computed. `--shape tiny` runs anywhere and measures nothing of worth.
"""

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from sharecap.model.attention import Attention, layout
from sharecap.model.blocks import Checkpointing, computing
from sharecap.model.forward import packed_forward, packed_loss

PAPER_ROWS, PAPER_HOURS = 1_246_000, 192
PAPER_PEAK = 312e12
"""The paper's pre-training: rows, A100-hours, and an A100's dense bf16 FLOP/s."""

PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12}
"""Dense bf16 FLOP/s by the makers' sheets."""


@dataclass(frozen=True)
class Measure:
    """One row of the table: how a step is computed."""

    name: str
    packed: bool = True  # else padded, all logits, transformers' checkpointing
    chunked: bool = True  # loss of learned positions in chunks, else all logits
    attention: Attention = "varlen"
    compiled: bool = True
    checkpointing: Checkpointing = "selective"


BEST = Measure("all")
MEASURES = (
    BEST,
    replace(BEST, name="padded, by transformers alone", packed=False),
    replace(BEST, name="all logits instead of chunks", chunked=False),
    replace(BEST, name="without compiling", compiled=False),
    replace(BEST, name="flex attention", attention="flex"),
    replace(BEST, name="SDPA by document", attention="sdpa"),
    replace(BEST, name="full checkpointing", checkpointing="full"),
    replace(BEST, name="no checkpointing", checkpointing="none"),
)


def make_model(shape: str, device: torch.device) -> Any:
    """A LLaVA-1.5-7B's shape, or a tiny one, with random bf16 weights."""
    if shape == "7b":
        vision = CLIPVisionConfig(
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=24,
            num_attention_heads=16,
            image_size=336,
            patch_size=14,
        )
        language = LlamaConfig(vocab_size=32064, max_position_embeddings=4096)
    else:
        vision = CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
        )
        language = LlamaConfig(
            vocab_size=128,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=512,
        )
    parts = {"vision_config": vision, "text_config": language}
    config: Any = LlavaConfig(**parts, image_token_index=language.vocab_size - 1)  # type: ignore[arg-type]
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            return LlavaForConditionalGeneration(config).train()
    finally:
        torch.set_default_dtype(before)


def freeze(model: Any, frozen_blocks: int) -> None:
    """What the paper freezes in pre-training, and the first blocks of the language model."""
    tower = model.model.vision_tower
    blocks = tower.encoder.layers
    tower.requires_grad_(False)
    for block in blocks[len(blocks) // 2 : -1]:
        block.requires_grad_(True)
    if frozen_blocks:
        model.model.language_model.embed_tokens.requires_grad_(False)
    model.model.language_model.layers[:frozen_blocks].requires_grad_(False)


def image_places(model: Any) -> int:
    vision = model.config.vision_config
    return int((vision.image_size // vision.patch_size) ** 2)


def flops_per_row(model: Any, length: float, *, frozen_blocks: int) -> float:
    """FLOPs that one row of `length` tokens needs, recomputation not counted.

    Two a weight and token forward, two for inputs' and two for weights' gradients; attention 4 * length *
    width a token and layer forward, halved for causality, twice that backward; half of the tower backward.
    """
    config = model.config.text_config
    block = sum(p.numel() for p in model.model.language_model.layers[0].parameters())
    attention = 2 * length * config.hidden_size
    head = config.hidden_size * config.vocab_size
    learned = length - image_places(model)
    language = length * config.num_hidden_layers * (6 * block + 3 * attention)
    language -= length * frozen_blocks * 2 * block
    tower = sum(p.numel() for p in model.model.vision_tower.encoder.layers.parameters())
    return float(language + 6 * learned * head + image_places(model) * tower * 4)


Pack = tuple[list[int], torch.Tensor, torch.Tensor, torch.Tensor]
"""Lengths, ids, learned positions, pictures."""


def packs(model: Any, tokens: int, seed: int) -> Iterator[Pack]:
    """Packs of up to `tokens` for ever."""
    rng = np.random.default_rng(seed)
    config, places, device = model.config, image_places(model), model.device
    words = (150, 300) if places > 100 else (8, 20)
    while True:
        lengths: list[int] = []
        while sum(lengths) + places + words[1] + 1 <= tokens:
            lengths.append(places + 1 + int(rng.integers(*words)))
        ids = torch.from_numpy(rng.integers(3, config.image_token_id, sum(lengths)))
        starts = np.cumsum([0, *lengths])[:-1]
        for start in starts:
            ids[start + 1 : start + 1 + places] = config.image_token_id
        spans = zip(starts, lengths, strict=True)
        learned = np.concatenate([np.arange(s + places, s + n - 1) for s, n in spans])
        size = config.vision_config.image_size
        pixels = torch.randn(len(lengths), 3, size, size, device=device, dtype=torch.bfloat16)
        yield lengths, ids.to(device), torch.from_numpy(learned).to(device), pixels


def backward(model: Any, measure: Measure, pack: Pack) -> None:
    """One forward and backward pass."""
    lengths, ids, learned, pixels = pack
    if not measure.packed:
        return backward_padded(model, pack)
    where, targets = layout(lengths, model.device), ids[learned + 1]
    if measure.chunked:
        loss = packed_loss(
            model, ids, where, pixels, predict=learned, targets=targets, compiled=measure.compiled
        )
    else:
        logits = packed_forward(model, ids, where, pixels, torch.arange(len(ids), device=ids.device))
        loss = torch.nn.functional.cross_entropy(logits[learned].float(), targets, reduction="sum")
    (loss / len(learned)).backward()
    return None


def backward_padded(model: Any, pack: Pack) -> None:
    """The same rows as a padded batch, by transformers alone."""
    lengths, ids, learned, pixels = pack
    labels = torch.full_like(ids, -100).index_copy(0, learned + 1, ids[learned + 1])
    rows, seen, answers = (
        torch.nn.utils.rnn.pad_sequence(list(x.split(lengths)), batch_first=True, padding_value=fill)
        for x, fill in ((ids, 0), (torch.ones_like(ids), 0), (labels, -100))
    )
    model(
        input_ids=rows, attention_mask=seen, pixel_values=pixels, labels=answers, use_cache=False
    ).loss.backward()


def timed(model: Any, measure: Measure, asked: argparse.Namespace) -> dict[str, float]:
    """Useful tokens/s, share of the peak, most memory."""
    learns = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learns, lr=1e-5, fused=True)
    on_gpu = model.device.type == "cuda"
    sync = torch.cuda.synchronize if on_gpu else (lambda: None)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    stream, tokens, flops, clock = packs(model, asked.tokens, seed=0), 0, 0.0, 0.0
    attention: Attention = measure.attention if on_gpu else "sdpa"
    torch._dynamo.reset()
    if measure.packed:
        how = computing(model, attention, measure.checkpointing, measure.compiled)
    else:
        how = nullcontext()
        model.gradient_checkpointing_enable()
    with how:
        for step in range(asked.warm_up + asked.steps):
            if step == asked.warm_up:
                sync()
                clock = time.perf_counter()
            pack = next(stream)
            backward(model, measure, pack)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if step >= asked.warm_up:
                tokens += sum(pack[0])
                flops += sum(flops_per_row(model, n, frozen_blocks=asked.frozen_blocks) for n in pack[0])
        sync()
    if not measure.packed:
        model.gradient_checkpointing_disable()
    seconds = time.perf_counter() - clock
    found = {"tokens_per_s": tokens / seconds, "tflop_per_s": flops / seconds / 1e12}
    if on_gpu:
        found["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
        name = torch.cuda.get_device_name()
        peak = next((value for key, value in PEAKS.items() if key in name), None)
        if peak:
            found["mfu"] = flops / seconds / peak
    return found


def paper_hours(model: Any, tflop_per_s: float) -> float:
    """Hours of this card for the paper's pre-training, everything learning."""
    row = flops_per_row(model, image_places(model) + 226, frozen_blocks=0)
    return PAPER_ROWS * row / (tflop_per_s * 1e12) / 3600


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=("7b", "tiny"), default="7b")
    parser.add_argument("--tokens", type=int, default=8192, help="of one pack; one pack a step")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warm-up", type=int, default=4)
    parser.add_argument("--frozen-blocks", type=int, default=0, help="first blocks that don't learn")
    parser.add_argument("--only", nargs="+", choices=[m.name for m in MEASURES])
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = make_model(asked.shape, device)
    freeze(model, asked.frozen_blocks)
    card = torch.cuda.get_device_name() if device.type == "cuda" else "CPU: these figures say nothing"
    count = sum(p.numel() for p in model.parameters())
    print(f"{count / 1e9:.2f}B parameters, {card}, torch {torch.__version__}")
    found: dict[str, dict[str, float]] = {}
    for measure in MEASURES:
        if asked.only and measure.name not in asked.only:
            continue
        try:
            found[measure.name] = timed(model, measure, asked)
            figures = "  ".join(f"{key} {value:,.3g}" for key, value in found[measure.name].items())
        except torch.OutOfMemoryError:
            figures = "does not fit"
        print(f"{measure.name:32}{figures}", flush=True)
    if BEST.name in found:
        hours = paper_hours(model, found[BEST.name]["tflop_per_s"])
        used = PAPER_ROWS * flops_per_row(model, image_places(model) + 226, frozen_blocks=0)
        print(
            f"the paper's pre-training: {hours:,.1f} hours of this card; its {PAPER_HOURS} A100-hours are "
            f"{used / (PAPER_HOURS * 3600 * PAPER_PEAK):.0%} of an A100's peak on the same FLOPs"
        )
    if asked.json:
        asked.json.write_text(json.dumps({"card": card, "figures": found}, indent=1))


if __name__ == "__main__":
    main()
