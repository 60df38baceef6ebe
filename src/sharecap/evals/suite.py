"""Which benchmarks there are: where an evaluation looks for each, and who reads and measures it.

Knows no rule of any benchmark; those are in `benchmarks/`, one file each.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from sharecap.errors import SharecapError, UsageError
from sharecap.evals import engines
from sharecap.evals.benchmarks import (
    capture,
    chair,
    coco_caption,
    detailed_captions,
    gqa,
    llava_bench,
    mm_vet,
    mmbench,
    mme,
    mmstar,
    pope,
    qbench,
    scienceqa,
    seed_bench,
    textvqa,
    vizwiz,
    vqav2,
)
from sharecap.evals.task import Measure, Task
from sharecap.evals.ten_answers import measure as ten_answers

Predictions = tuple[Task, dict[str, str]]
"""A task and the answers to it, by sample."""

FOLDERS: Mapping[str, Callable[[Path], list[Task]]] = {
    "mme": mme.read_tasks,
    "mmbench": mmbench.read_tasks,
    "seed-bench": seed_bench.read_tasks,
    "qbench": qbench.read_tasks,
    "scienceqa": scienceqa.read_tasks,
    "vqav2": vqav2.read_tasks,
    "vizwiz": vizwiz.read_tasks,
    "textvqa": textvqa.read_tasks,
    "gqa": gqa.read_tasks,
    "pope": pope.read_tasks,
    "mmstar": mmstar.read_tasks,
    "detailed-captions": detailed_captions.read_tasks,
    "llava-bench": llava_bench.read_tasks,
    "mm-vet": mm_vet.read_tasks,
}
"""Folder below the benchmarks' directory, and what reads it."""

OTHERWISE: Mapping[str, tuple[str, Callable[[Path], list[Task]]]] = {
    seed_bench.RANKING: ("seed-bench", seed_bench.read_ranking),
    capture.NAME: ("detailed-captions", capture.read_tasks),
}
"""Other askings and scorings of a benchmark, done only when they are named -> its folder, and its reader."""

JUDGED = ("llava-bench", "mm-vet")
"""Those whose answers a judge scores."""

MEASURES: Mapping[str, Measure] = {
    "llava-bench": llava_bench.measure,
    "mme": mme.measure,
    "mmbench": mmbench.measure,
    "mmbench-cn": mmbench.measure,
    "seed-bench": seed_bench.measure,
    seed_bench.RANKING: seed_bench.measure,
    "mm-vet": mm_vet.measure,
    "qbench": qbench.measure,
    "scienceqa": scienceqa.measure,
    "vqav2": ten_answers,
    "vizwiz": ten_answers,
    "textvqa": ten_answers,
    "gqa": gqa.measure,
    "pope": pope.measure,
    "mmstar": mmstar.measure,
    "chair": chair.measure,
    "coco-caption": coco_caption.measure,
    "detailed-captions": detailed_captions.measure,
    capture.NAME: capture.measure,
}
"""Every task's metrics, by its name: what `sharecap score` takes."""

_LABELS_INSIDE: Mapping[str, Callable[[Path, Path | None], Predictions]] = {
    "mme": mme.read_predictions,
    "mmbench": mmbench.read_predictions,
    "mmbench-cn": mmbench.read_chinese,
    "mm-vet": mm_vet.read_predictions,
    "qbench": qbench.read_predictions,
    "scienceqa": scienceqa.read_predictions,
    "mmstar": mmstar.read_predictions,
    "coco-caption": coco_caption.read_predictions,
}
"""Benchmarks whose files of predictions may hold the labels."""

_LABELS_BESIDE: Mapping[str, Callable[[Path, Path], Predictions]] = {
    "seed-bench": seed_bench.read_predictions,
    seed_bench.RANKING: seed_bench.read_ranked,
    "gqa": gqa.read_predictions,
    "pope": pope.read_predictions,
    "chair": chair.read_predictions,
    "detailed-captions": detailed_captions.read_predictions,
    capture.NAME: capture.read_predictions,
}

_RULED: Mapping[str, Callable[[Path, Path, str | None], Predictions]] = {
    "vqav2": vqav2.read_predictions,
    "vizwiz": vizwiz.read_predictions,
    "textvqa": textvqa.read_predictions,
}
"""Benchmarks for which several scoring rules are in use."""


def find_tasks(
    directory: Path, only: Sequence[str] = (), *, judged: bool = False
) -> tuple[list[Task], list[str]]:
    """The tasks whose folders lie in `directory`, and which of those in `only` don't.

    Tasks that a judge scores are left out unless there is one (`judged`).
    """
    if not directory.is_dir():
        raise UsageError(
            "no such directory", where=directory, todo="give the directory that holds the benchmarks"
        )
    unknown = [name for name in only if name not in (*FOLDERS, *OTHERWISE)]
    if unknown:
        todo = f"choose from {', '.join((*FOLDERS, *OTHERWISE))}"
        raise UsageError(f"unknown benchmark {unknown[0]!r}", todo=todo)
    waiting = [] if judged else [name for name in only if name in JUDGED]
    if waiting:
        raise UsageError(f"{waiting[0]} is scored by a judge", todo="add --judge http(s)://…/v1#MODEL")
    known = [name for name in FOLDERS if judged or name not in JUDGED]
    wanted = [name for name in (*known, *OTHERWISE) if (name in only if only else name in known)]
    missing = [name for name in wanted if not (directory / _folder(name)).is_dir()]
    if len(missing) == len(wanted):
        if not judged and unjudged(directory):
            todo = "add --judge http(s)://…/v1#MODEL"
            raise UsageError("only benchmarks that a judge scores are here", where=directory, todo=todo)
        raise UsageError("no benchmark here", where=directory, todo=f"expected folders {', '.join(wanted)}")
    present = [name for name in wanted if name not in missing]
    found = [task for name in present for task in read_folder(name, directory / _folder(name))]
    return found, missing if only else []


def _folder(name: str) -> str:
    return OTHERWISE[name][0] if name in OTHERWISE else name


def unjudged(directory: Path, only: Sequence[str] = ()) -> list[str]:
    """Benchmarks that lie in `directory` and are asked only where there is a judge."""
    return [name for name in JUDGED if not only and (directory / name).is_dir()]


def read_folder(name: str, folder: Path) -> list[Task]:
    """The tasks of a benchmark that lies in its folder; `SharecapError` if they can't be read."""
    with expected(name, folder, todo=f"are these the files of {name} as they are given out?"):
        return OTHERWISE[name][1](folder) if name in OTHERWISE else FOLDERS[name](folder)


def named(benchmark: str) -> str:
    """Our name for a benchmark, however it is written: `seed_bench`, `SEED-Bench` and `seedbench` are one."""
    plain = _plain(benchmark)
    found = next((name for name in MEASURES if _plain(name) == plain), None)
    if found is None:
        raise UsageError(f"unknown benchmark {benchmark!r}", todo=f"choose from {', '.join(MEASURES)}")
    return found


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


def read_predictions(
    benchmark: str, paths: Sequence[Path], labels: Path | None, rule: str | None
) -> Predictions:
    """Recorded predictions (sample id -> text) with the task that scores them.

    Several paths are several runs of a judge; only LLaVA-Bench keeps each in a file of its own.
    """
    name = named(benchmark)
    if rule is not None and name not in _RULED:
        raise UsageError(f"{name} has one scoring rule only", todo="leave out --rule")
    for given in (*paths, labels):
        if given is not None and not given.exists():
            raise UsageError("no such file or directory", where=given)
    with expected(name, paths[0], todo="are these the predictions, and these the labels?"):
        return _read(name, paths, labels, rule)


@contextmanager
def expected(name: str, where: Path, todo: str) -> Iterator[None]:
    """The readers check what people get wrong; files of another make altogether end here, in one line."""
    try:
        yield
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        what = f"not the files of {name} that were expected ({type(error).__name__}: {error})".split("\n")[0]
        raise SharecapError(what, where=where, todo=todo) from error
    except OSError as error:
        raise SharecapError(f"cannot read ({error.strerror})", where=error.filename or where) from error


def _read(name: str, paths: Sequence[Path], labels: Path | None, rule: str | None) -> Predictions:
    if labels is None and len(paths) == 1 and (found := engines.read(name, paths[0], rule)):
        return found
    if name == "llava-bench":
        return llava_bench.read_predictions(paths, labels)
    if len(paths) != 1:
        raise UsageError(f"{name} takes one file or directory of predictions", todo="give --predictions once")
    if name in _LABELS_INSIDE:
        return _LABELS_INSIDE[name](paths[0], labels)
    if labels is None:
        todo = "add --labels with the benchmark's own files"
        raise UsageError(f"{name} predictions hold no labels", where=paths[0], todo=todo)
    return _RULED[name](paths[0], labels, rule) if name in _RULED else _LABELS_BESIDE[name](paths[0], labels)
