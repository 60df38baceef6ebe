"""What a run says of itself: a line of JSON a step in its directory first, then whatever else was asked for.

The lines are part of what a resumed run restores: those of steps that are done again are removed. A measured
number must never change what is trained.
"""

import hashlib
import json
import math
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from sharecap.artifact import write_atomically
from sharecap.data.loading import PackTensors, Step
from sharecap.errors import SharecapError, UsageError
from sharecap.model.build import places_taken
from sharecap.train.cost import cost_of, work_of_packs
from sharecap.train.parallel import World

METRICS = "metrics.jsonl"

LOSS, QUALITY = "held_out_loss", "held_out_quality"
"""In the lines of steps after which somebody looked at what is held out."""

Progress = Callable[[dict[str, Any], int], None]
"""Called after each step with its line of metrics and the number of steps of the run."""

PEAKS = {  # bf16 matrix products without sparsity, FLOP/s, from the makers' data sheets
    "B200": 2.25e15,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "RTX 5090": 209.5e12,
    "RTX 4090": 165.2e12,
    "RTX 3090": 71e12,
    "MI300X": 1307e12,
}
"""By a piece of the card's name; the first that fits."""


@dataclass(frozen=True)
class Count:
    """What a step amounts to, over all ranks."""

    loss: float
    flops: float
    images: int


class Meter:
    """Measures steps. The model must be whole and know what learns."""

    def __init__(self, model: Any, world: World, precision: str) -> None:
        self.world, self.cost, self.config = world, cost_of(model), model.config
        self.peak = world.size * peak_flops(world.device, precision)
        self.begun = self.waited = 0.0

    def waiting(self, stream: Iterator[Step]) -> Iterator[Step]:
        """The steps as they come; the time of each begins when it is asked for."""
        while True:
            self.begun = time.monotonic()
            step = next(stream, None)
            self.waited = time.monotonic() - self.begun
            if step is None:
                return
            yield step

    def count(self, step: Step, loss: Tensor) -> Count:
        """Add up what the ranks did, `loss` being this rank's share of it."""
        work = work_of_packs((p.lengths, len(p.predict), self.pictures(p)) for p in step.packs)
        own = torch.tensor([0.0, self.cost.flops(work).needed, work.images], dtype=torch.float64)
        own = own.to(loss.device)
        own[0] = loss
        total, flops, pictures = self.world.sum(own).tolist()
        return Count(total, flops, int(pictures))

    def pictures(self, pack: PackTensors) -> list[int]:
        """Places of each of the pack's pictures."""
        return [] if pack.pixels is None else places_taken(self.config, pack.pixels)

    def line(self, step: Step, count: Count) -> dict[str, Any]:
        """The step's line of metrics; call it when the weights have changed."""
        seconds = time.monotonic() - self.begun
        waited, memory = self.world.most(self.waited, peak_memory(self.world.device))
        return {
            "step": step.number + 1,
            "loss": count.loss,
            "tokens": step.tokens,
            "learned_tokens": step.learned,
            "rows": step.rows,
            "images": count.images,
            "tokens_per_s": step.tokens / seconds,
            "samples_per_s": step.rows / seconds,
            "flops": count.flops,
            "mfu": count.flops / seconds / self.peak,
            "data_wait_s": waited,
            "memory_bytes": int(memory),
            "seconds": seconds,
        }


class Log:
    """The lines of a run. One rank `writes` them to disk and to whoever else was asked for."""

    def __init__(self, directory: Path, run: str, done: int, log_to: Sequence[str], writes: bool) -> None:
        path = directory / METRICS
        self.lines = read_lines(path, done)
        self.file = None
        self.sinks: list[Sink] = []
        if writes:
            self.sinks = [SINKS[name](directory, run) for name in log_to]
            write_atomically(path, "".join(json.dumps(line) + "\n" for line in self.lines))
            self.file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed by `__exit__`

    def write(self, line: dict[str, Any]) -> None:
        """Add the line of one step."""
        self.lines.append(line)
        if self.file is not None:
            self.file.write(json.dumps(line) + "\n")
        for sink in self.sinks:
            sink.write(flat(line), line["step"])

    def flush(self) -> None:
        """Hand what was written to the operating system, where a kill can't reach it."""
        if self.file is not None:
            self.file.flush()

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_: object) -> None:
        if self.file is not None:
            self.file.close()
        for sink in self.sinks:
            sink.close()


def read_lines(path: Path, done: int) -> list[dict[str, Any]]:
    """The lines of the first `done` steps; `SharecapError` if they can't be read."""
    if done == 0 or not path.exists():
        return []
    try:
        kept = path.read_text(encoding="utf-8").splitlines()[:done]
        return [json.loads(line) for line in kept]
    except (OSError, ValueError, RecursionError) as error:
        todo = "mend it, or remove its directory and train that stage anew"
        raise SharecapError(f"cannot read the metrics ({error})", where=path, todo=todo) from None


def flat(line: Mapping[str, Any]) -> dict[str, float]:
    """The line without nesting: `{"rates": {"language": 2e-5}}` becomes `{"rates/language": 2e-5}`."""
    made: dict[str, float] = {}
    for key, value in line.items():
        if isinstance(value, Mapping):
            made |= {f"{key}/{name}": x for name, x in value.items()}
        elif value is not None:
            made[key] = value
    return made


class Sink(Protocol):
    """Somewhere that shows metrics while they come."""

    def write(self, values: Mapping[str, float], step: int) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in the run's directory, for `tensorboard --logdir`."""

    def __init__(self, directory: Path, _: str) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise not_installed("tensorboard") from None
        self.writer: Any = SummaryWriter(str(directory / "tensorboard"))

    def write(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases, named after the directory; a resumed one goes on in the same."""

    def __init__(self, directory: Path, run: str) -> None:
        try:
            import wandb  # type: ignore[import-not-found,unused-ignore]
        except ImportError:
            raise not_installed("wandb") from None
        place = directory.resolve()
        own = hashlib.sha256(f"{run} {place}".encode()).hexdigest()[:16]
        self.run: Any = wandb.init(
            project="sharecap", name=place.name, id=own, dir=str(directory), resume="allow"
        )

    def write(self, values: Mapping[str, float], step: int) -> None:
        self.run.log(dict(values), step=step)

    def close(self) -> None:
        self.run.finish()


SINKS: dict[str, Callable[[Path, str], Sink]] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}


def not_installed(package: str) -> UsageError:
    todo = f"pip install {package}, or leave it out of log_to"
    return UsageError(f"log_to asks for {package}, which is not installed", todo=todo)


@lru_cache
def peak_flops(device: torch.device, precision: str) -> float:
    """What the device can do at most, FLOP/s: from the table, else as a large matrix product measures it."""
    if device.type == "cuda" and precision == "bf16":
        name = torch.cuda.get_device_name(device)
        for piece, peak in PEAKS.items():
            if piece.lower() in name.lower():
                return peak
    side = 1024 if device.type == "cpu" else 8192
    matrix = torch.ones(
        side, side, dtype=torch.bfloat16 if precision == "bf16" else torch.float32, device=device
    )
    return 2 * side**3 / min(timed(lambda: matrix @ matrix, device) for _ in range(5))


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds that the work takes."""
    begun = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun


def peak_memory(device: torch.device) -> int:
    """The most bytes that were in use at once: on the GPU, else by this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def worth_of(line: Mapping[str, Any]) -> float | None:
    """What the model was worth after that step, larger is better; None where nobody looked."""
    if QUALITY in line:
        return float(line[QUALITY])
    return -float(line[LOSS]) if LOSS in line else None


def looks_in_vain(lines: Sequence[Mapping[str, Any]]) -> int:
    """How many of the last looks at what is held out came after the best one."""
    worths = [worth for line in lines if (worth := worth_of(line)) is not None]
    return len(worths) - 1 - worths.index(max(worths)) if worths else 0


def summary(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The run in a few numbers; `final_loss` is the mean over the last tenth of the steps."""
    tail = [line["loss"] for line in lines[-max(1, len(lines) // 10) :]]
    keys = ("tokens", "learned_tokens", "rows", "flops", "data_wait_s", "seconds")
    total = {key: sum(line[key] for line in lines) for key in keys}
    measured = [line for line in lines if worth_of(line) is not None]
    best: dict[str, Any] = {}
    if measured:
        at = max(measured, key=lambda line: worth_of(line) or -math.inf)  # the first of several
        best = {key: at[key] for key in (LOSS, QUALITY) if key in at} | {"best_step": at["step"]}
    return {
        "steps": len(lines),
        "final_loss": sum(tail) / len(tail),
        **best,
        "tokens": total["tokens"],
        "learned_tokens": total["learned_tokens"],
        "tokens_per_s": total["tokens"] / total["seconds"],
        "samples_per_s": total["rows"] / total["seconds"],
        "flops": total["flops"],
        "data_wait_s": total["data_wait_s"],
        "step_seconds": total["seconds"],
        "memory_bytes": max(line["memory_bytes"] for line in lines),
    }
