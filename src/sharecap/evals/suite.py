"""Which benchmarks there are: where an evaluation looks for each, and who reads and measures it.

Knows no rule of any benchmark; those are in `benchmarks/`, one file each.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sharecap.errors import SharecapError, UsageError
from sharecap.evals.benchmarks import mmbench, mme, vqa
from sharecap.evals.task import Measure, Task

FOLDERS: Mapping[str, Callable[[Path], list[Task]]] = {
    "mme": mme.read_tasks,
    "mmbench": mmbench.read_tasks,
    "vqav2": vqa.read_tasks,
}
"""Folder below the benchmarks' directory, and what reads it."""

MEASURES: Mapping[str, Measure] = {
    "mme": mme.measure,
    "mmbench": mmbench.measure,
    "mmbench-cn": mmbench.measure,
    "vqav2": vqa.measure,
    "textvqa": vqa.measure,
}
"""Every task's metrics, by its name."""

SCORED = ("mme", "mmbench", "vqav2", "textvqa")
"""What `sharecap score` takes."""


def find_tasks(directory: Path, only: Sequence[str] = ()) -> tuple[list[Task], list[str]]:
    """The tasks whose folders lie in `directory`, and the names of the folders that don't."""
    if not directory.is_dir():
        raise UsageError(
            "no such directory", where=directory, todo="give the directory that holds the benchmarks"
        )
    unknown = [name for name in only if name not in FOLDERS]
    if unknown:
        raise UsageError(f"unknown benchmark {unknown[0]!r}", todo=f"choose from {', '.join(FOLDERS)}")
    wanted = [name for name in FOLDERS if not only or name in only]
    missing = [name for name in wanted if not (directory / name).is_dir()]
    if len(missing) == len(wanted):
        raise UsageError("no benchmark here", where=directory, todo=f"expected folders {', '.join(wanted)}")
    present = [name for name in wanted if name not in missing]
    return [task for name in present for task in _read(FOLDERS[name], directory / name)], missing


def _read(reader: Callable[[Path], list[Task]], folder: Path) -> list[Task]:
    try:
        return reader(folder)
    except UnicodeDecodeError as error:
        raise SharecapError(f"a file is not UTF-8 text ({error})", where=folder) from None


def read_predictions(
    benchmark: str, path: Path, data: Path | None, rule: str | None
) -> tuple[Task, dict[str, str]]:
    """Recorded predictions (sample id -> text) with the task that scores them."""
    if benchmark not in SCORED:
        raise UsageError(f"unknown benchmark {benchmark!r}", todo=f"choose from {', '.join(SCORED)}")
    if rule is not None and benchmark not in vqa.DEFAULT_RULE:
        raise UsageError(f"{benchmark} has one scoring rule only", todo="leave out --rule")
    for given in (path, data):
        if given is not None and not given.exists():
            raise UsageError("no such file or directory", where=given)
    try:
        if benchmark == "mme":
            if data is not None:
                raise UsageError("MME result files hold their labels", where=data, todo="leave out --data")
            return mme.read_predictions(path)
        if benchmark == "mmbench":
            return mmbench.read_predictions(path, data)
        if data is None:
            todo = "add --data with the directory of the question and annotation files"
            raise UsageError(f"{benchmark} predictions hold no labels", where=path, todo=todo)
        return vqa.read_predictions(benchmark, path, data, rule or vqa.DEFAULT_RULE[benchmark])
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise SharecapError(f"not a file of {benchmark} predictions ({error})", where=path) from None
