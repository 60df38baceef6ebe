"""How the story went: its stages in time and money, what each training did, on which machine.

Read from manifests and logs. Time is time in which some stage was at work: starting programs, and the night
between two halves of an interrupted run, are not in it.
"""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from sharecap import __version__, artifact
from sharecap.artifact import Artifact, plain
from sharecap.report.document import Commands, Number, Paragraph, Pipeline, Plot, Series, Stage, Table
from sharecap.scenes.summary_scores import ARM_NAMES

if TYPE_CHECKING:
    from sharecap.scenes.quickstart import Story

STEPS = {"align": "align", "pretrain": "pretrain", "sft": "instruction tuning"}
"""The paper's three stages, as directories and in words."""

BEFORE_ARMS = (
    *("world", "tower", "language", "start", "first"),
    *("looking", "captioner", "short", "large", "probe"),
)
STAGES = (
    *BEFORE_ARMS,
    *(f"arms/{arm}/{step}" for arm in ARM_NAMES for step in STEPS),
    *(f"evals/{arm}" for arm in ARM_NAMES),
)
"""Every stage's directory, in the order of the story."""

METRICS, TRAINABLE = "metrics.jsonl", "trainable.json"
PARTS = {"vision": "vision tower", "projector": "projector", "language": "language model"}


def read_stages(root: Path) -> dict[str, Artifact]:
    """All stages; `SharecapError` if one is not finished."""
    return {name: artifact.read(root / name) for name in STAGES}


def spans(stages: Mapping[str, Artifact]) -> tuple[dict[str, float], float]:
    """When each stage began, and how long all took, in seconds of time at work; idle time is cut out."""
    ends = {name: datetime.fromisoformat(s.finished).timestamp() for name, s in stages.items()}
    begins = {name: ends[name] - stages[name].seconds for name in stages}
    merged: list[list[float]] = []
    for name in sorted(stages, key=lambda name: begins[name]):
        if merged and begins[name] <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], ends[name])
        else:
            merged.append([begins[name], ends[name]])

    def worked_before(moment: float) -> float:
        return sum(min(end, moment) - begin for begin, end in merged if begin < moment)

    starts = {name: worked_before(begin) for name, begin in begins.items()}
    return starts, worked_before(max(ends.values()))


def pipeline(stages: Mapping[str, Artifact], made: Mapping[str, str]) -> Pipeline:
    """Every stage with what it made, in the order in which they began."""
    starts, seconds = spans(stages)

    def row(title: str, what: str, names: Sequence[str]) -> Stage:
        costs = [cost for name in names if (cost := cost_of(stages[name])) is not None]
        return Stage(
            title,
            what,
            sum(stages[name].seconds for name in names),
            sum(costs) if costs else None,
            min(starts[name] for name in names),
        )

    titles = {
        "world": "Draw the world",
        "tower": "Stand-in for CLIP",
        "language": "Stand-in for Vicuna",
        "start": "Join them",
        "first": "Teacher's captions",
        "looking": "Captioner: learn to look",
        "captioner": "Captioner: learn to answer",
        "short": "Short captions",
        "large": "Captioner's captions",
        "probe": "Both on the same pictures",
    }
    rows = [row(title, made[name], [name]) for name, title in titles.items()]
    for arm, name in ARM_NAMES.items():
        rows.append(row(f"Train: {name}", made[f"arms/{arm}"], [f"arms/{arm}/{step}" for step in STEPS]))
        rows.append(row(f"Examine: {name}", made[f"evals/{arm}"], [f"evals/{arm}"]))
    rows.sort(key=lambda stage: stage.start or 0.0)
    note = (
        "What does not wait for each other ran side by side, a core each. Time in which no stage was at work "
        "is left out. Money is what the teacher's tokens would cost at the price given; the simulated "
        "teacher is free."
    )
    return Pipeline(tuple(rows), seconds, note)


def cost_of(stage: Artifact) -> float | None:
    """What the teacher's answers of a stage would cost; None where no teacher was asked."""
    found = stage.metrics.get("teacher", stage.metrics)  # the probe has two reports
    cost = found.get("cost_usd")
    return None if cost is None else float(cost)


def trainings(stages: Mapping[str, Artifact]) -> Table:
    """Every training run in numbers."""
    titles = {"language": "language model, on text"}
    titles |= {"looking": "captioner, to look", "captioner": "captioner, to answer"}
    titles |= {f"arms/{a}/{s}": f"{name}: {STEPS[s]}" for a, name in ARM_NAMES.items() for s in STEPS}
    rows = []
    for name, title in titles.items():
        found = stages[name].metrics
        waited = 100 * found["data_wait_s"] / found["step_seconds"]
        rows.append(
            (
                title,
                found["steps"],
                found["tokens"],
                found["learned_tokens"],
                Number(found["final_loss"], 3),
                Number(found["tokens_per_s"], 0),
                Number(waited, 1),
                Number(stages[name].seconds, 0, "s"),
            )
        )
    columns = (
        "Training",
        "Steps",
        "Tokens",
        "Learned from",
        "Loss at the end",
        "Tokens/s",
        "Data wait, %",
        "Time",
    )
    note = "Loss: mean per learned token over the last tenth of the steps, each on its own rows."
    return Table(columns, tuple(rows), title="Training runs", note=note)


def trainable(root: Path) -> Table:
    """Which parts learned in the detailed arm's pre-training."""
    found = json.loads((root / "arms" / "detailed" / "pretrain" / TRAINABLE).read_text(encoding="utf-8"))
    rows = [
        (PARTS[line["part"]], line["blocks"] or None, line["parameters"], f"{line['learning_rate']:g}")
        for line in found["table"]
    ]
    return Table(
        ("Part", "Blocks", "Parameters", "Peak rate"),
        (*rows, ("frozen", None, found["frozen"], None)),
        title="What learns in pre-training",
        note="The latter half of the vision tower, up to the layer that features are taken from, with "
        "projector and language model (paper, section 4.2). Blocks are counted from 0.",
    )


def curves(root: Path) -> tuple[Plot, ...]:
    """Loss per step: the captioner, then each stage for every arm."""

    def series(directory: str, name: str, emphasis: bool) -> Series:
        lines = [json.loads(line) for line in (root / directory / METRICS).read_text().splitlines()]
        xs, ys = [float(line["step"]) for line in lines], [float(line["loss"]) for line in lines]
        return Series(name, tuple(xs), tuple(ys), emphasis)

    axes = ("step", "loss per learned token")
    own = "Each arm reads its own rows, so heights can't be compared."
    same = "All arms read the same questions; only the rows that ask for details differ."
    notes = {"align": own, "pretrain": own, "sft": same}
    captioner = Plot("Captioner", (series("looking", "captioner", False),), *axes)
    arms = (
        Plot(
            words.capitalize(),
            tuple(series(f"arms/{arm}/{s}", n, arm == "detailed") for arm, n in ARM_NAMES.items()),
            *axes,
            note=notes[s],
        )
        for s, words in STEPS.items()
    )
    return captioner, *arms


def asking(story: "Story") -> tuple[Paragraph, Commands]:
    """What to type to ask the models about the pictures that are shown: a file alone can't run one."""
    root = _typed(story)
    models = " ".join(f"--model {root}/arms/{arm}/sft/model" for arm in ("detailed", "none"))
    text = "This opens the pictures with two of the models; beside each stands a link to ask both about it:"
    return Paragraph(text), Commands((f"sharecap view {root}/probe/dataset {models}",))


def _typed(story: "Story") -> str:
    return os.path.relpath(story.root) if story.root.is_relative_to(Path.cwd()) else str(story.root)


def commands(story: "Story") -> Commands:
    """What to type to do it again, and to look further."""
    root = _typed(story)
    again = f"sharecap quickstart --seed {story.spec.seed} --to {root}"
    return Commands(
        (
            *((again,) if story.spec == type(story.spec)(seed=story.spec.seed) else ()),
            f"sharecap compare {root}/evals/detailed {root}/evals/short",
            f"sharecap eval {root}/arms/detailed/sft/model --benchmarks {root}/world/exam",
            f"sharecap stats {root}/large/dataset",
        )
    )


def settings(story: "Story") -> Table:
    """Every setting of the run."""
    found: dict[str, object] = {}
    for name, value in plain(story.spec).items():
        found |= {f"{name}.{n}": v for n, v in value.items()} if isinstance(value, dict) else {name: value}
    rows = tuple((n, f"{v:,}" if isinstance(v, int) else str(v)) for n, v in found.items())
    return Table(("Setting", "Value"), rows, title="Settings", note="Prices: USD per million tokens.")


def environment() -> dict[str, str]:
    """The machine and the programs, as they are when the report is written."""
    return {
        "sharecap": __version__,
        "Python": platform.python_version(),
        "torch": version("torch"),
        "transformers": version("transformers"),
        "system": platform.platform(),
        "processor": processor(Path("/proc/cpuinfo")),
        "cores": str(os.cpu_count()),
    }


def processor(cpuinfo: Path) -> str:
    """The processor's name, as the system has it."""
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
