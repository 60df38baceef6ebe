"""Table 6's column beside the scores: what pre-training holds and takes for each share of the tower.

Logs hold the highest mark that a process ever reached, which is of the models that it trained before as well.
So what a step holds is traced on the model's own shapes, and the page says that it was.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from sharecap import artifact
from sharecap.artifact import Artifact
from sharecap.recipes.design import Design
from sharecap.recipes.peers import TOWER_SHARES
from sharecap.scenes.lab import Bench
from sharecap.scenes.lab_scores import Cell, Detail
from sharecap.scenes.summary_course import METRICS
from sharecap.train.metrics import read_lines

if TYPE_CHECKING:
    from sharecap.train.memory import Memory

Line = Mapping[str, Any]


def memory_and_time(designs: Sequence[Design], benches: Mapping[int, Bench]) -> Detail:
    """A row a model: what learns, what is held, what a step takes; the paper's figures last."""
    rows: list[tuple[str, tuple[Cell, ...]]] = []
    for design in designs:
        found = [of_pretraining(bench, design) for bench in benches.values()]
        learning, held, operations, seconds = zip(*found, strict=True)
        cells = (fmean(learning) / 1e3, fmean(held) / 2**20, fmean(operations) / 1e9, 1e3 * min(seconds))
        rows.append((design.name, (*cells, *TOWER_SHARES.get(design.tower, (None, None)))))
    columns = (
        *("Blocks that learn", "Parameters that learn, thousands", "Held, MiB", "Operations of a step, 10⁹"),
        *("A step, ms", "Published: GB of a GPU", "Published: MME-P / MMBench / SEED"),
    )
    note = (
        "Of pre-training. Held: weights, gradients, optimiser and activations of the largest step, traced on "
        "its shapes, without the program around them; the runs recorded only the highest mark of processes "
        "that had trained other models before. A step's time is the median by the clock, in the world where "
        "it is lowest: the machine may have done other work beside. Published: Table 6, for 7B; †: not read "
        "in the paper itself."
    )
    return Detail("Memory and time beside the scores", columns, tuple(rows), note)


def of_pretraining(bench: Bench, design: Design) -> tuple[int, float, float, float]:
    """Parameters that learn, bytes held, operations of a mean step, median seconds of a step."""
    stage = artifact.read(bench.own_paths(design)[0])
    lines = read_lines(stage.path / METRICS, stage.metrics["steps"])
    largest = max(lines, key=lambda line: int(line["tokens"]))
    return (
        sum(stage.metrics["parameters"].values()),
        held(bench, design, stage, largest).total,
        stage.metrics["flops"] / len(lines),
        median(line["seconds"] for line in lines),
    )


def held(bench: Bench, design: Design, stage: Artifact, step: Line) -> "Memory":
    """What is held in a step of that size, by the model's own shapes."""
    from transformers import LlavaConfig

    from sharecap.model.build import image_tokens
    from sharecap.scenes.arms import all_parts, stages
    from sharecap.train.memory import Imagined, PackShape

    arm = bench.spec.arm
    train = stages(arm, "captions", bench.spec.seed)["pretrain"]
    config: Any = LlavaConfig.from_pretrained(stage.path / "model")
    imagined = Imagined(config, all_parts(arm, design.tower), train.precision)
    tokens, rows = step["tokens"], step["rows"]
    lengths = [tokens // rows + (place < tokens % rows) for place in range(rows)]
    places = image_tokens(config)
    return imagined.memory(PackShape(tuple(lengths), step["learned_tokens"], step["images"], places))
