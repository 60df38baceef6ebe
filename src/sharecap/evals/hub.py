"""Fetches benchmarks from a hub through `datasets`, and writes them as the benchmark itself gives them out.

Only sets whose hub copy holds all that their own files do; of the others it is said where they are. A folder
that is there is never written over, and one that can't be read back is not left behind.
"""

import base64
import csv
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharecap.errors import SharecapError, UsageError
from sharecap.evals.inventory import SOURCES
from sharecap.evals.suite import FOLDERS, read_folder
from sharecap.images.dataset import disk_errors

Row = Mapping[str, Any]
Load = Callable[["HubSet"], Iterable[Row]]
"""The rows of a set; the value of `image` is `{"bytes": …, "path": …}`."""


@dataclass(frozen=True)
class HubSet:
    """Where a hub keeps a benchmark, and how its rows become the benchmark's own files."""

    repository: str
    config: str | None
    split: str
    write: Callable[[Iterable[Row], Path], None]


def get(name: str, directory: Path, load: "Load | None" = None) -> Path:
    """Write the benchmark into its folder below `directory`; `SharecapError` if there is no hub."""
    if name not in SETS:
        if name not in FOLDERS:
            raise UsageError(f"unknown benchmark {name!r}", todo=f"choose from {', '.join(SETS)}")
        todo = f"its files are given out at {SOURCES[name]}"
        raise UsageError(f"no hub has the files of {name} as they are", todo=todo)
    folder = directory / name
    if folder.exists():
        raise UsageError("this benchmark is there already", where=folder, todo="check it, or move it away")
    part = directory / f"{name}.part"
    with disk_errors(directory):
        rows = (load or from_hub)(SETS[name])
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        try:
            SETS[name].write(rows, part)
            read_folder(name, part)
            part.replace(folder)
        except (KeyError, TypeError, ValueError) as error:
            what = f"the hub's rows are not those that were expected ({type(error).__name__}: {error})"
            todo = f"take the files from {SOURCES[name]}"
            raise SharecapError(what, where=SETS[name].repository, todo=todo) from None
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return folder


def from_hub(wanted: HubSet) -> Iterable[Row]:
    """The rows as the hub has them, pictures not decoded; one clear line where no hub can be reached."""
    try:
        import datasets  # type: ignore[import-untyped]
    except ImportError:
        todo = "pip install datasets, or copy the benchmark's files yourself"
        raise SharecapError("the package `datasets` is not installed", todo=todo) from None
    try:
        found = datasets.load_dataset(wanted.repository, wanted.config, split=wanted.split)
    except Exception as error:  # noqa: BLE001 - what a hub's client raises has no common root
        said = " ".join(str(error).split())[:200]
        todo = "copy the benchmark's files yourself, or set HF_ENDPOINT to a mirror"
        where = wanted.repository
        raise SharecapError(f"cannot be fetched from the hub ({said})", where=where, todo=todo) from None
    rows: Iterable[Row] = found.cast_column("image", datasets.Image(decode=False))
    return rows


def _mme(rows: Iterable[Row], folder: Path) -> None:
    """A picture and a text of two lines per pair."""
    for row in rows:
        subtask, stem = str(row["category"]), Path(str(row["question_id"])).stem
        if "/" in subtask or subtask.startswith("."):
            raise ValueError(f"a subtask called {subtask!r}")
        place = folder / subtask
        place.mkdir(exist_ok=True)
        (place / f"{stem}.png").write_bytes(row["image"]["bytes"])
        with open(place / f"{stem}.txt", "a", encoding="utf-8") as f:
            f.write(f"{row['question']}\t{row['answer']}\n")


def _mmbench(rows: Iterable[Row], folder: Path) -> None:
    """The table, with pictures in base64."""
    header = ["index", "question", "hint", *"ABCD", "answer", "category", "l2-category", "image", "split"]
    with open(folder / "mmbench_dev.tsv", "w", encoding="utf-8", newline="") as f:
        table = csv.DictWriter(f, header, delimiter="\t", restval="", extrasaction="ignore")
        table.writeheader()
        for row in rows:
            code = base64.b64encode(row["image"]["bytes"]).decode()
            told = {name: value for name, value in row.items() if value not in (None, "nan")}
            table.writerow(told | {"image": code, "l2-category": row.get("L2-category", "")})


def _mmstar(rows: Iterable[Row], folder: Path) -> None:
    """One Parquet file, as the authors have it."""
    import pyarrow as pa  # type: ignore[import-untyped]
    from pyarrow import parquet

    flat = [{**row, "image": row["image"]["bytes"]} for row in rows]
    parquet.write_table(pa.Table.from_pylist(flat), folder / "MMStar.parquet")


SETS: Mapping[str, HubSet] = {
    "mme": HubSet("lmms-lab/MME", None, "test", _mme),
    "mmbench": HubSet("lmms-lab/MMBench", "en", "dev", _mmbench),
    "mmstar": HubSet("Lin-Chen/MMStar", None, "val", _mmstar),
}
"""What can be fetched."""
