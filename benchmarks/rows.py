"""A LLaVA JSON of 1.5 GB: seconds to open it, and the peak memory of every process that reads it.

Makes the file (rows of one to three turns, some with quotes, line ends and other alphabets), opens it without
and with a kept index, reads rows at random in processes of their own, and makes training steps of them with
loading processes. Each stage is a process of its own; memory is the kernel's peak of resident pages. For
comparison: what `json.load` takes. `python benchmarks/rows.py` (about 5 minutes, 1.5 GB of disk)
"""

import argparse
import json
import os
import pickle
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SAID = "a red boat lies on the grey water of a small harbour under low clouds while two people watch"
WORDS = SAID.split()
ODD = ['"quoted"', "line\nend", "naïve", "水の上", "back\\slash"]
ROWS = "rows.json"


def make(folder: Path, size: int) -> int:
    """Write the file; returns the number of rows."""
    rng = random.Random(0)
    texts = [" ".join(rng.choices([*WORDS, *ODD[: 1 + n % 5]], k=rng.randint(5, 300))) for n in range(500)]
    number = 0
    with open(folder / ROWS, "w", encoding="utf-8") as file:
        file.write("[")
        while number % 1000 or file.tell() < size:
            turns = []
            for turn in range(rng.choice((1, 1, 3))):
                mark = "" if turn or number % 16 == 0 else "<image>\n"
                turns += [
                    {"from": "human", "value": mark + "What can be seen here?"},
                    {"from": "gpt", "value": rng.choice(texts)},
                ]
            image = {} if number % 16 == 0 else {"image": f"coco/train2017/{number:012}.jpg"}
            row = {"id": f"{number:012}", **image, "conversations": turns}
            file.write((",\n" if number else "\n") + json.dumps(row, ensure_ascii=number % 2 == 0))
            number += 1
        file.write("\n]\n")
    return number


def peak_mib(who: int = resource.RUSAGE_SELF) -> float:
    """Of this process, or the largest of its children."""
    return resource.getrusage(who).ru_maxrss / 1024


def opened(folder: Path) -> dict[str, float]:
    """Open the file."""
    from sharecap.data.rows import Rows

    clock, work = time.monotonic(), time.process_time()
    rows = Rows(folder / ROWS)
    seconds, cpu = time.monotonic() - clock, time.process_time() - work
    (folder / "pickled").write_bytes(pickle.dumps(rows))
    return {"rows": len(rows), "seconds": seconds, "cpu_seconds": cpu, "peak_mib": peak_mib()}


def read(folder: Path) -> dict[str, float]:
    """Take over the rows as a worker process does and read many at random."""
    rows = pickle.loads((folder / "pickled").read_bytes())
    rng, count = random.Random(os.getpid()), 100_000
    clock = time.monotonic()
    for _ in range(count):
        assert rows[rng.randrange(len(rows))].turns
    return {"rows_per_s": count / (time.monotonic() - clock), "peak_mib": peak_mib()}


def imported(_: Path) -> dict[str, float]:
    """What the libraries of training take by themselves."""
    import torch  # noqa: F401
    import transformers.models.auto.tokenization_auto  # noqa: F401

    return {"peak_mib": peak_mib()}


def load(folder: Path) -> dict[str, float]:
    """Make steps in two processes: rows read, cut and packed; the pictures are zeros."""
    import numpy as np
    import torch

    from sharecap.chat.templates import VICUNA_V1
    from sharecap.chat.tokenise import Cutter
    from sharecap.data.check import documents_of
    from sharecap.data.loading import steps
    from sharecap.data.measure import measure
    from sharecap.data.mixed import some_of
    from sharecap.data.rows import Rows

    rows = Rows(folder / ROWS)
    some = some_of(rows, np.random.default_rng(0).permutation(len(rows))[:20_000])
    cutter = Cutter(tokenizer(), VICUNA_V1, 576)
    measured = measure(some, cutter, workers=2)
    documents = documents_of(some, cutter, measured, np.arange(len(some)))
    count, clock = 60, time.monotonic()
    stream = steps(
        documents,
        lambda images: torch.zeros(len(images), 3, 336, 336),
        **{"batch_rows": 128, "pack_tokens": 4096, "seed": 0, "first": 0, "last": count, "workers": 2},
    )
    tokens = sum(step.tokens for step in stream)
    seconds = time.monotonic() - clock
    children = peak_mib(resource.RUSAGE_CHILDREN)
    return {"tokens_per_s": tokens / seconds, "peak_mib": peak_mib(), "peak_mib_of_a_worker": children}


def tokenizer():
    """A byte-level tokenizer of 2,000 words of these texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "</s>", "<image>"]
    trainer = trainers.BpeTrainer(vocab_size=2000, special_tokens=special, initial_alphabet=alphabet)
    inner.train_from_iterator([" ".join([*WORDS, *ODD])], trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="</s>", clean_up_tokenization_spaces=False
    )
    made.add_special_tokens({"additional_special_tokens": ["<image>"]})
    return made


def whole(folder: Path) -> dict[str, float]:
    """The usual way, in every process."""
    clock, work = time.monotonic(), time.process_time()
    with open(folder / ROWS, encoding="utf-8") as file:
        rows = json.load(file)
    seconds, cpu = time.monotonic() - clock, time.process_time() - work
    return {"rows": len(rows), "seconds": seconds, "cpu_seconds": cpu, "peak_mib": peak_mib()}


STAGES = {function.__name__: function for function in (opened, read, imported, load, whole)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gb", type=float, default=1.5, help="size of the file in GB")
    parser.add_argument("--stage", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.stage:
        name, folder = given.stage
        print(json.dumps(STAGES[name](Path(folder))))
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "OMP_WAIT_POLICY": "PASSIVE"}

        def start(stage: str) -> "subprocess.Popen[str]":
            command = [sys.executable, __file__, "--stage", stage, place]
            return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)

        print(f"made: {make(folder, int(given.gb * 1e9)):,} rows, {(folder / ROWS).stat().st_size:,} bytes")
        for title, stage, count in (
            ("open, no index yet", "opened", 1),
            ("open, index kept", "opened", 1),
            ("read at random, 4 processes at once", "read", 4),
            ("import torch and transformers only", "imported", 1),
            ("steps made by 2 processes", "load", 1),
            ("json.load", "whole", 1),
        ):
            running = [start(stage) for _ in range(count)]
            for process in running:
                said, _ = process.communicate()
                figures = ", ".join(
                    f"{k} {v:,.2f}" if v < 100 else f"{k} {v:,.0f}" for k, v in json.loads(said).items()
                )
                print(f"{title}: {figures}", flush=True)


if __name__ == "__main__":
    main()
