"""What a recipe is: the parts of a model, the stages that teach it, the files of rows that each stage reads.

Plain frozen data. A recipe is what a function returns; an ablation is a function that changes another's
result. It must never hold a path of one machine: files are named below a data directory that the user gives.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from sharecap.errors import UsageError
from sharecap.model.build import Parts
from sharecap.train.config import TrainConfig
from sharecap.train.cost import RowKind


@dataclass(frozen=True)
class Source:
    """Rows of one file in LLaVA's JSON format."""

    file: str  # below the data directory
    images: str = "."  # folder that its image paths start from, below the data directory
    kinds: tuple[RowKind, ...] = ()  # what is in it, as far as it is known; plans are made from this
    origin: str = ""  # where people get it


@dataclass(frozen=True)
class Stage:
    """One run of training."""

    name: str
    train: TrainConfig
    rows: tuple[Source, ...]
    start: str = ""  # the stage whose model it goes on from; "": the recipe's own start


@dataclass(frozen=True)
class Recipe:
    """A model stage by stage."""

    name: str
    parts: Parts | Path  # what is put together at the start, or the directory of a whole model to start from
    stages: tuple[Stage, ...]  # in the order in which they run

    def __post_init__(self) -> None:
        names = [stage.name for stage in self.stages]
        for number, stage in enumerate(self.stages):
            if stage.start and stage.start not in names[:number]:
                what = f"stage {stage.name} starts from {stage.start!r}, which is no stage before it"
                raise UsageError(what, where=f"recipe {self.name}")
        if not names or len(set(names)) < len(names):
            raise UsageError("stages must be one or more, of different names", where=f"recipe {self.name}")

    def stage(self, name: str) -> Stage:
        """The stage of that name; `UsageError` that lists them."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        known = ", ".join(stage.name for stage in self.stages)
        raise UsageError(f"recipe {self.name} has no stage {name!r}", todo=f"its stages: {known}")

    def with_stage(self, changed: Stage) -> "Recipe":
        """The recipe with this stage in place of its own of that name."""
        self.stage(changed.name)
        return replace(self, stages=tuple(changed if s.name == changed.name else s for s in self.stages))
