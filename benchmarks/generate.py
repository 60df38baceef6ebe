"""How fast a LLaVA captions on this machine: sharecap beside transformers' `generate`, same weights, one run.

Greedy, with lengths from 60 to 300 tokens given to all sides, since random weights seldom end a caption.
The reference's way is a batch of 4, 3 beams and a repetition penalty. It writes fewer captions: its time for
all is taken to grow with the steps that its batches need. All sides take turns, and the best run of each
counts: a size given twice is a second run.
`python benchmarks/generate.py --help`
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from train_rows import SHAPES, make_model
from transformers import StoppingCriteria, StoppingCriteriaList

from sharecap.captions.teachers.writers import Writers
from sharecap.model import folder
from sharecap.model.build import Llava
from sharecap.model.generation import Decoding, Query

TEXT = "ba babe babi"  # words that the tokenizer knows


class Bounds(StoppingCriteria):
    """Each row stops at a length of its own."""

    def __init__(self, bounds: Sequence[int], prompt: int) -> None:
        self.bounds, self.prompt = torch.tensor(bounds), prompt

    def __call__(self, input_ids: Tensor, *_: Any, **__: Any) -> Tensor:
        beams = len(input_ids) // len(self.bounds)  # with their candidates
        return self.bounds.repeat_interleave(beams) <= input_ids.shape[1] - self.prompt


def by_transformers(
    llava: Llava, pictures: Sequence[Image.Image], bounds: Sequence[int], batch: int, **how: Any
) -> list[list[int]]:
    """New tokens of each caption, in batches of the given size."""
    found: list[list[int]] = []
    content = [{"type": "image"}, {"type": "text", "text": TEXT}]
    text = llava.processor.apply_chat_template([{"role": "user", "content": content}])
    for at in range(0, len(pictures), batch):
        chosen, own = pictures[at : at + batch], bounds[at : at + batch]
        inputs = llava.processor(images=list(chosen), text=[text] * len(chosen), return_tensors="pt")
        start = inputs["input_ids"].shape[1]
        stop = StoppingCriteriaList([Bounds(own, start)])
        with torch.inference_mode():
            ids = llava.model.generate(
                **inputs, do_sample=False, max_new_tokens=max(own), stopping_criteria=stop, **how
            )
        found += [row[start : start + bound].tolist() for row, bound in zip(ids, own, strict=True)]
    return found


def steps(bounds: Sequence[int], batch: int = 4) -> int:
    """How many tokens are written one after the other: a batch goes on until its longest caption ends."""
    return sum(max(bounds[at : at + batch]) for at in range(0, len(bounds), batch))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="8m")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 32, 64, 128], help="sizes tried")
    parser.add_argument("--reference-images", type=int, default=16, help="captions of the reference's way")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        llava = make_model(Path(place), SHAPES[asked.shape], 16)
        folder.save(llava, Path(place) / "model")
        compare(llava, Path(place) / "model", asked)


def compare(llava: Llava, directory: Path, asked: argparse.Namespace) -> None:
    """All ways in turn; a line of JSON each, and one for the whole."""
    rng = random.Random(0)
    size = llava.processor.image_processor.crop_size["height"]
    pictures = [
        Image.frombytes("RGB", (size, size), rng.randbytes(3 * size * size)) for _ in range(asked.images)
    ]
    bounds = [60 + 240 * i // max(1, asked.images - 1) for i in range(asked.images)]
    rng.shuffle(bounds)
    queries = [Query((p,), TEXT, bound) for p, bound in zip(pictures, bounds, strict=True)]
    report: list[dict[str, Any]] = []

    def tell(way: str, batch: int, captions: int, seconds: float) -> None:
        report.append({"way": way, "batch": batch, "captions/s": round(captions / seconds, 3)})
        print(json.dumps(report[-1]), flush=True)

    said: dict[str, list[str]] = {}
    few = asked.reference_images
    share = steps(bounds[:few]) / steps(bounds)  # of what all captions take in the reference's way
    for batch in asked.batches:
        writers = Writers(directory, batch)
        writers.generate(queries, Decoding(max_new_tokens=1))  # models are loaded before the clock starts
        clock = time.perf_counter()
        replies = writers.generate(queries, Decoding(max_new_tokens=300))
        writers.close()
        tell("sharecap", batch, len(queries), time.perf_counter() - clock)
        said["sharecap"] = [reply.text for reply in replies]
        clock = time.perf_counter()
        ids = by_transformers(llava, pictures, bounds, batch)
        tell("generate", batch, len(queries), time.perf_counter() - clock)
        said["generate"] = [llava.tokenizer.decode(row, skip_special_tokens=True).strip() for row in ids]
        clock = time.perf_counter()
        by_transformers(llava, pictures[:few], bounds[:few], 4, num_beams=3, repetition_penalty=1.2)
        tell("reference", 4, len(queries), (time.perf_counter() - clock) / share)
    best = {way: max(r["captions/s"] for r in report if r["way"] == way) for way in (*said, "reference")}
    same = sum(a == b for a, b in zip(said["sharecap"], said["generate"], strict=True))
    print(
        json.dumps(
            {
                "shape": asked.shape,
                "threads": torch.get_num_threads(),
                "images": asked.images,
                "over generate": round(best["sharecap"] / best["generate"], 2),
                "over reference": round(best["sharecap"] / best["reference"], 2),
                "same captions": same,
            }
        )
    )


if __name__ == "__main__":
    main()
