"""Fetches benchmarks from a hub through `datasets`, and writes them as the benchmark itself gives them out.

How each set's rows become files is in `hub_sets`. A folder that is there is never written over, and one that
can't be read back is not left behind.
"""

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sharecap.errors import SharecapError, UsageError
from sharecap.evals.hub_sets import SETS, HubSet, Row
from sharecap.evals.inventory import SOURCES
from sharecap.evals.suite import read_folder
from sharecap.images.dataset import disk_errors

Load = Callable[[HubSet], Iterable[Row]]
"""The rows of a set; a picture's value is `{"bytes": …, "path": …}`."""


def get(name: str, directory: Path, load: "Load | None" = None) -> Path:
    """Write the benchmark into its folder below `directory`; `SharecapError` if there is no hub."""
    if name not in SETS:
        raise UsageError(f"unknown benchmark {name!r}", todo=f"choose from {', '.join(SETS)}")
    wanted = SETS[name]
    folder = directory / (wanted.folder or name)
    taken = wanted.taken(folder) if wanted.taken else folder.exists()
    if taken:
        raise UsageError("this benchmark is there already", where=folder, todo="check it, or move it away")
    part = directory / f"{name}.part"
    with disk_errors(directory):
        loaded = (load or from_hub)(wanted)
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        try:
            pictures = _pictures(wanted, load or from_hub)
            wanted.write(_asking(loaded, pictures), part)
            read_folder(folder.name, part)
            if folder.exists():  # beside the benchmark's other table
                for file in part.iterdir():
                    file.replace(folder / file.name)
            else:
                part.replace(folder)
        except SharecapError as error:
            what = f"the hub's rows make no {name} that can be read: {error.what}"
            raise SharecapError(what, where=wanted.repository, todo=_elsewhere(folder.name)) from None
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            what = f"the hub's rows are not those that were expected ({type(error).__name__}: {error})"
            raise SharecapError(what, where=wanted.repository, todo=_elsewhere(folder.name)) from None
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return folder


def _elsewhere(folder: str) -> str:
    return f"take the files from {SOURCES[folder]}"


def _pictures(wanted: HubSet, load: Load) -> Mapping[str, Any]:
    """Pictures by id, of a set that keeps them apart."""
    if not wanted.pictures:
        return {}
    return {row["id"]: row["image"] for row in load(replace(wanted, config=wanted.pictures))}


def _asking(rows: Iterable[Row], pictures: Mapping[str, Any]) -> Iterable[Row]:
    """The rows, with their pictures; a null would be asked as the word "None"."""
    for row in rows:
        if row.get("question", "") is None:
            raise ValueError("a row without a question")
        yield {**row, "image": pictures[row["imageId"]]} if pictures else row


def from_hub(wanted: HubSet) -> Iterable[Row]:
    """The rows as the hub has them, pictures not decoded; one clear line where no hub can be reached."""
    try:
        import datasets  # type: ignore[import-untyped]
    except ImportError:
        todo = "pip install datasets, or copy the benchmark's files yourself"
        raise SharecapError("the package `datasets` is not installed", todo=todo) from None
    try:
        found = datasets.load_dataset(wanted.repository, wanted.config, split=wanted.split)
        rows: Iterable[Row] = found.cast(datasets.Features(_undecoded(found.features, datasets)))
    except Exception as error:  # noqa: BLE001 - what a hub's client raises has no common root
        said = " ".join(str(error).split())[:200]
        todo = "copy the benchmark's files yourself, or set HF_ENDPOINT to a mirror"
        where = wanted.repository
        raise SharecapError(f"cannot be fetched from the hub ({said})", where=where, todo=todo) from None
    return rows


def _undecoded(features: Mapping[str, Any], datasets: Any) -> dict[str, Any]:
    """The same features with pictures as the bytes that they are, alone or in lists."""

    def bare(feature: Any) -> Any:
        if isinstance(feature, datasets.Image):
            return datasets.Image(decode=False)
        return datasets.List(bare(feature.feature)) if isinstance(feature, datasets.List) else feature

    return {name: bare(feature) for name, feature in features.items()}
