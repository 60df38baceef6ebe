"""How fast a LLaVA trains on this machine: sharecap beside Hugging Face's Trainer, same rows, in one run.

Counted on all sides are the tokens of the rows as the template writes them, image places included, padding
never; time is whole steps, data, gradient clipping and optimiser included, after warm-up. All sides compute
in one precision (bf16 autocast), clip, and use the fused AdamW. `python benchmarks/train.py --help`
"""

import argparse
import json
import multiprocessing
import os
import platform
import random
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.optim import AdamW
from train_rows import SHAPES, prepare, rows_of
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler

from sharecap.chat.templates import VICUNA_V1
from sharecap.chat.tokenise import Cutter, Document
from sharecap.model import folder, trainable
from sharecap.model.build import Llava
from sharecap.model.pixels import Pixels
from sharecap.model.trainable import Rule
from sharecap.train.config import TrainConfig
from sharecap.train.loop import train

BATCH = 16
WORLD = 16
"""GPUs of the authors' run, over whose common batch they group."""

WARM_UP = 3


@dataclass(frozen=True)
class Took:
    """One contestant's timed steps."""

    tokens: int  # useful ones
    places: int  # with padding
    seconds: float
    wait_s: float  # of these, waiting for data
    cpu_s: float  # processor time of all threads, the Trainer's workers not counted


def random_batches(documents: Sequence[Document]) -> list[list[int]]:
    """Batches of a random order."""
    order = list(range(len(documents)))
    random.Random(0).shuffle(order)
    return [order[i : i + BATCH] for i in range(0, len(order), BATCH)]


def length_batches(documents: Sequence[Document]) -> list[list[int]]:
    """Batches of the Trainer's own `group_by_length`."""
    lengths = [len(d) for d in documents]
    order = list(LengthGroupedSampler(BATCH, lengths=lengths, generator=torch.Generator().manual_seed(0)))
    return [order[i : i + BATCH] for i in range(0, len(order), BATCH)]


def authors_batches(documents: Sequence[Document]) -> list[list[int]]:
    """Batches of each GPU by the authors' rule, restated.

    World batches of rows with and of rows without a picture, what is left over mixed; each sorted by length
    and dealt out so that all GPUs get about the same number of tokens.
    """
    rng = random.Random(0)
    whole, left = [], []
    for pictures in (True, False):
        rows = [i for i, d in enumerate(documents) if bool(d.images) == pictures]
        rng.shuffle(rows)
        full = len(rows) // (BATCH * WORLD) * BATCH * WORLD
        whole += [rows[i : i + BATCH * WORLD] for i in range(0, full, BATCH * WORLD)]
        left += rows[full:]
    rng.shuffle(whole)
    batches = []
    for world in whole + [left[i : i + BATCH * WORLD] for i in range(0, len(left), BATCH * WORLD)]:
        shares: list[list[int]] = [[] for _ in range(WORLD)]
        for i in sorted(world, key=lambda i: -len(documents[i])):
            open_ = [share for share in shares if len(share) < -(-len(world) // WORLD)]
            min(open_, key=lambda share: sum(len(documents[j]) for j in share)).append(i)
        batches += [share for share in shares if share]
    return batches


RULES = {
    "Trainer, random": random_batches,
    "authors' grouping": authors_batches,
    "Trainer, group_by_length": length_batches,
}
OURS = "sharecap"


class Padded(torch.utils.data.Dataset[dict[str, Any]]):
    """Rows as the Trainer takes them; pictures are read by its workers."""

    def __init__(self, documents: Sequence[Document], pixels: Pixels) -> None:
        self.documents, self.pixels = documents, pixels

    def __len__(self) -> int:
        return len(self.documents)

    def __getitem__(self, i: int) -> dict[str, Any]:
        document = self.documents[i]
        ids = torch.from_numpy(document.ids).long()
        labels = ids.where(torch.from_numpy(document.learned), -100)
        return {
            "ids": ids,
            "labels": labels,
            "pixels": self.pixels(document.images) if document.images else None,
        }


def collate(rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """Right padding to the longest row."""
    pad = torch.nn.utils.rnn.pad_sequence
    ones = [torch.ones_like(row["ids"]) for row in rows]
    batch = {
        "input_ids": pad([row["ids"] for row in rows], batch_first=True),
        "labels": pad([row["labels"] for row in rows], batch_first=True, padding_value=-100),
        "attention_mask": pad(ones, batch_first=True),
    }
    pixels = [row["pixels"] for row in rows if row["pixels"] is not None]
    return batch | ({"pixel_values": torch.cat(pixels)} if pixels else {})


class InOrder(Trainer):
    """The Trainer with batches that were chosen before."""

    order: list[int]

    def _get_train_sampler(self, _: Any = None) -> list[int]:  # type: ignore[override]
        return self.order


class Clock(TrainerCallback):
    """When steps begin and end."""

    def __init__(self) -> None:
        self.begun: list[float] = []
        self.ended: list[float] = []
        self.cpu: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.begun.append(time.perf_counter())

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ended.append(time.perf_counter())
        self.cpu.append(time.process_time())


def rules(shape: str) -> tuple[Rule, ...]:
    """What learns, as in the paper's pre-training: projector, language model, latter half of the tower."""
    half = SHAPES[shape].tower_blocks // 2
    return (Rule("vision", 2e-5, from_block=half), Rule("projector", 2e-5), Rule("language", 2e-5))


def sample(batches: list[list[int]], documents: Sequence[Document], steps: int) -> list[list[int]]:
    """`steps` batches that stand for all, evenly spaced by their padded size, and as many to warm up."""
    full = sorted(
        (b for b in batches if len(b) == BATCH), key=lambda b: (max(len(documents[i]) for i in b), b)
    )
    chosen = [full[int((step + 0.5) * len(full) / steps)] for step in range(steps)]
    random.Random(0).shuffle(chosen)
    return [*(full[-1 - i] for i in range(WARM_UP)), *chosen]


def padded(name: str, size: str, place: Path, steps: int, precision: str) -> Took:
    """One of the Trainer's ways."""
    llava = folder.load(place / "model")
    documents = cut(llava, place)
    model: Any = llava.model
    trainable.apply(model, trainable.resolve(model, rules(size)))
    model.config.text_config.use_cache = False  # a cache costs time and is of no use in training
    batches = sample(RULES[name](documents), documents, steps)
    arguments = TrainingArguments(
        output_dir=str(place / "trainer"),
        max_steps=len(batches),
        per_device_train_batch_size=BATCH // ranks(),
        use_cpu=True,
        bf16=precision == "bf16",
        learning_rate=2e-5,
        lr_scheduler_type="cosine",
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        dataloader_num_workers=1,
        remove_unused_columns=False,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )
    clock = Clock()
    trainer = InOrder(
        model,
        arguments,
        collate,
        Padded(documents, Pixels(llava.processor.image_processor)),
        callbacks=[clock],
    )
    trainer.order = [i for batch in batches for i in batch]
    trainer.train()
    timed = batches[WARM_UP:]
    gaps = zip(clock.ended[WARM_UP - 1 : -1], clock.begun[WARM_UP:], strict=True)
    return Took(
        tokens=sum(len(documents[i]) for batch in timed for i in batch),
        places=sum(padded_places(batch, documents) for batch in timed),
        seconds=clock.ended[-1] - clock.ended[WARM_UP - 1],
        wait_s=sum(b - a for a, b in gaps),
        cpu_s=clock.cpu[-1] - clock.cpu[WARM_UP - 1],
    )


def padded_places(batch: list[int], documents: Sequence[Document]) -> int:
    """Places of a batch, of which each process pads its own share."""
    share = BATCH // ranks()
    parts = (batch[at : at + share] for at in range(0, BATCH, share))
    return sum(share * max(len(documents[i]) for i in part) for part in parts)


def packed(size: str, place: Path, steps: int, changes: dict[str, Any]) -> Took:
    """sharecap's own training, from rows to a saved model, its steps timed from outside."""
    config = TrainConfig("vicuna_v1", rules(size), BATCH, steps=WARM_UP + steps, compile=True, parallel="ddp")
    clock = Clock()
    out = place / f"out-{os.environ.get('MASTER_PORT', os.getpid())}"
    stepped = AdamW.step

    def step(*arguments: Any) -> None:  # every rank's clock, which only the first one's progress is told
        stepped(*arguments)
        clock.on_step_end()

    with patch.object(AdamW, "step", step):
        train(replace(config, **changes), place / "model", rows_of(place), out)
    timed = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()][WARM_UP:]
    tokens = sum(line["tokens"] for line in timed)
    waited = sum(line["data_wait_s"] for line in timed)
    seconds, cpu_s = (x[-1] - x[WARM_UP - 1] for x in (clock.ended, clock.cpu))
    return Took(tokens, tokens, seconds, waited, cpu_s)


def cut(llava: Llava, place: Path) -> list[Document]:
    """The rows as tokens, the same as sharecap's."""
    return Cutter(llava.tokenizer, VICUNA_V1, llava.image_tokens).documents(rows_of(place))


def ranks() -> int:
    """Processes that this one trains with, itself among them."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def contest(  # noqa: PLR0917 - sent to another process
    rank: dict[str, str], name: str, size: str, place: Path, steps: int, changes: dict[str, Any]
) -> Took:
    os.environ.update(rank)
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // ranks()))
    multiprocessing.set_start_method("fork", force=True)  # of the Trainer's workers; ours was spawned
    if name == OURS:
        return packed(size, place, steps, changes)
    return padded(name, size, place, steps, changes["precision"])


def in_processes(count: int, *arguments: Any) -> Took:
    """Each contestant in fresh processes: same allocator, nothing left from the one before.

    Several are started as torchrun does it, and share the cores.
    """
    world = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    if count == 1:
        world = {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=context) as pool:
        asked = [
            pool.submit(contest, world and {**world, "RANK": str(i), "LOCAL_RANK": str(i)}, *arguments)
            for i in range(count)
        ]
        took = [x.result() for x in asked]
    longest, cpu = max(t.seconds for t in took), sum(t.cpu_s for t in took)
    return replace(took[0], seconds=longest, wait_s=max(t.wait_s for t in took), cpu_s=cpu)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def main() -> None:
    """Print a table; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SHAPES, default="8m")
    parser.add_argument("--steps", type=int, default=12, help="timed steps of 16 rows")
    parser.add_argument("--own-steps", type=int, help="the same for sharecap alone, which is faster")
    parser.add_argument("--rounds", type=int, default=1, help="medians of so many turns of everyone")
    parser.add_argument("--processes", type=int, default=1, help="of everyone; they share cores and batches")
    parser.add_argument("--image-tokens", type=int, default=64, help="a square number; the paper's are 576")
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--only", nargs="+", choices=[*RULES, OURS], default=[*RULES, OURS])
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16", help="of everyone")
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=JSON", help="of the TrainConfig")
    asked = parser.parse_args()
    changes = {name: json.loads(value) for name, _, value in (word.partition("=") for word in asked.set)}
    changes["precision"] = asked.precision
    runs: dict[str, list[Took]] = {}
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        parameters = prepare(place, SHAPES[asked.size], asked.image_tokens, asked.rows)
        print(
            f"{parameters / 1e6:.1f}M parameters, {asked.image_tokens} places an image, batches of {BATCH}, "
            f"processes {asked.processes}; "
            f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}, "
            f"load {os.getloadavg()[0]:.1f}"
        )
        for _ in range(asked.rounds):
            for name in asked.only:
                steps = (asked.own_steps or asked.steps) if name == OURS else asked.steps
                took = in_processes(asked.processes, name, asked.size, place, steps, changes)
                runs.setdefault(name, []).append(took)
                print(f"  {name}: {runs[name][-1]}", flush=True)
    show(runs)
    print(json.dumps({name: [asdict(took) for took in all_took] for name, all_took in runs.items()}))


def show(runs: dict[str, list[Took]]) -> None:
    """Medians, and how many times faster sharecap is, by the clock and by processor time."""

    def middle(name: str, figure: Callable[[Took], float]) -> float:
        return statistics.median(figure(took) for took in runs[name])

    print(f"\n{'':26}{'tokens/s':>10}{'per CPU s':>11}{'padding':>9}{'waits':>8}{'ratio':>14}{'by CPU':>8}")
    for name in runs:
        speeds = [lambda t: t.tokens / t.seconds, lambda t: t.tokens / t.cpu_s]
        mine = [middle(name, figure) for figure in speeds]
        ratios = [middle(OURS, f) / m if OURS in runs else 0 for f, m in zip(speeds, mine, strict=True)]
        padding = middle(name, lambda t: 1 - t.tokens / t.places)
        waits = middle(name, lambda t: t.wait_s / t.seconds)
        print(
            f"{name:26}{mine[0]:>10,.0f}{mine[1]:>11,.0f}{padding:>9.0%}{waits:>8.1%}"
            f"{ratios[0]:>12.2f} x{ratios[1]:>6.2f} x"
        )


if __name__ == "__main__":
    main()
