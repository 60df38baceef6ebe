"""Doing a recipe: its stages one after the other, each a finished directory that the next one starts from.

A stage that is there is skipped, one that was killed goes on. It must never empty a directory in which
another recipe, or this one with other settings, has trained: that may be days of work.
"""

import json
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharecap import __version__
from sharecap.artifact import (
    MANIFEST,
    Artifact,
    file_digest,
    files_digest,
    key_of,
    mark_of,
    plain,
    read,
    stage,
    write_atomically,
)
from sharecap.chat.own import OWN
from sharecap.chat.templates import template_named
from sharecap.errors import SharecapError, UsageError
from sharecap.images.dataset import held
from sharecap.model.build import Llava, Parts, build, without_weights
from sharecap.model.card import CARD, card
from sharecap.model.trainable import resolve
from sharecap.recipes import files
from sharecap.recipes.recipe import Recipe, Stage
from sharecap.recipes.shapes import shape_of
from sharecap.train.loop import MODEL, train
from sharecap.train.metrics import METRICS, Progress

KIND, ASKED = "model", "asked.json"

Watch = Callable[[str], AbstractContextManager[Progress]]
"""Shows the stage of this name while the block lasts."""


def run(
    recipe: Recipe, data: Path, to: Path, watch: Watch, *, only: str = "", rank: int = 0
) -> list[Artifact]:
    """Do all stages, or the one named `only`, below `to`; returns the finished ones.

    `UsageError`, before anything is done, for files that are missing, or if what lies in `to` was made with
    other settings; `SharecapError` if another command is at work there. Under torchrun every process calls
    this with its rank.
    """
    chosen = [recipe.stage(only)] if only else list(recipe.stages)
    files.check(chosen, data)
    if not all(one.start for one in chosen):  # else the stage before is there, and looked at in a moment
        check_stages(recipe.parts, chosen)
    for one in before(recipe, chosen):
        check_settings(recipe, one, to / one.name)
    to.mkdir(parents=True, exist_ok=True)
    with held(to) if rank == 0 else nullcontext():
        return [Runner(recipe, data, to, watch, rank).run(one) for one in chosen]


def check_stages(parts: Parts | Path, chosen: list[Stage]) -> None:
    """`UsageError` for a stage whose rules or template don't fit, not when the others are done."""
    if isinstance(parts, Path):
        if not parts.is_dir():
            raise UsageError("no such model directory", where=parts, todo="give a whole model's: parts=DIR")
        return  # it is loaded in a moment
    model = without_weights(shape_of(parts), parts.language)
    for one in chosen:
        try:
            resolve(model, one.train.rules)
            if one.train.template != OWN:
                template_named(one.train.template)
        except UsageError as error:
            raise UsageError(error.what, where=f"stage {one.name}", todo=error.todo) from None


def before(recipe: Recipe, chosen: list[Stage]) -> list[Stage]:
    """These stages and all that they start from."""
    needed = {stage.name for stage in chosen}
    for stage_ in reversed(recipe.stages):
        if stage_.name in needed and stage_.start:
            needed.add(stage_.start)
    return [stage_ for stage_ in recipe.stages if stage_.name in needed]


@dataclass(frozen=True)
class Runner:
    """Runs stages of a recipe."""

    recipe: Recipe
    data: Path
    to: Path
    watch: Watch
    rank: int

    def run(self, one: Stage) -> Artifact:
        """Train one stage unless that is done."""
        directory, config = self.to / one.name, asked(self.recipe, one)
        inputs = {**start_of(self.recipe, one, self.to), **files.digests(one, self.data)}
        key = key_of(KIND, config, inputs)
        if begun(directory) and mark_of(directory).get("key", key) not in (key, ""):
            what = "trained from other rows, or from another start"
            raise UsageError(what, where=directory, todo="choose another --to, or remove it yourself")

        def work(place: Path) -> Mapping[str, Any]:
            if self.rank == 0:
                write_atomically(place / ASKED, json.dumps(config, indent=1))
            start = self.to / one.start / MODEL if one.start else whole(self.recipe.parts)
            with self.watch(one.name) as progress:
                made = train(one.train, start, files.rows_of(one, self.data), place, progress)
            if self.rank == 0:
                write_atomically(place / MODEL / CARD, self.card(one, config, inputs, made))
            return {**made, "settings": one.train}

        if self.rank > 0:
            return follow(directory, key, work)
        return stage(directory, KIND, config, inputs, work, content=(MODEL,))

    def card(
        self, one: Stage, config: Mapping[str, Any], inputs: Mapping[str, str], metrics: Mapping[str, Any]
    ) -> str:
        """The model's card: this stage, and those that it goes on from."""
        earlier = [vars(read(self.to / stage_.name)) for stage_ in before(self.recipe, [one])[:-1]]
        own = {"config": config, "inputs": inputs, "metrics": metrics, "code_version": __version__}
        return card(f"{self.recipe.name}, stage {one.name}", [*earlier, own])


def follow(directory: Path, key: str, work: Callable[[Path], Any], every_s: float = 1.0) -> Artifact:
    """The part of a process that isn't the first: it works along, and waits until the first has finished."""
    if not finished(directory, key):
        work(directory)
    while not finished(directory, key):  # torchrun ends all processes when one fails
        time.sleep(every_s)
    return read(directory)


def finished(directory: Path, key: str) -> bool:
    """Whether the directory holds the result that was asked for."""
    return (directory / MANIFEST).exists() and read(directory).key == key


def begun(directory: Path) -> bool:
    """Whether anything was trained there. Until then rows and settings that were refused may be mended."""
    return (directory / MANIFEST).exists() or (directory / METRICS).exists()


def asked(recipe: Recipe, one: Stage) -> dict[str, Any]:
    """What decides a stage's result, apart from what it starts from and the rows' contents."""
    rows = [{"file": source.file, "images": source.images} for source in one.rows]
    parts = {} if one.start else {"parts": recipe.parts}
    found: dict[str, Any] = plain(
        {"recipe": recipe.name, "stage": one.name, **parts, "train": one.train.decides(), "rows": rows}
    )
    return found


def start_of(recipe: Recipe, one: Stage, to: Path) -> dict[str, str]:
    """Digests of what a stage starts from."""
    if not one.start:
        return parts_digests(recipe.parts)
    try:
        return {"start": read(to / one.start).digest}
    except SharecapError:
        what = f"stage {one.name} starts from {one.start}, which is not finished"
        raise UsageError(what, where=to / one.start, todo="run that first, or leave --stage away") from None


def whole(parts: Parts | Path) -> Llava | Path:
    """What training starts from."""
    return parts if isinstance(parts, Path) else build(parts)


def parts_digests(parts: Parts | Path) -> dict[str, str]:
    """What the parts are: the digest of a folder's files; a name where the Hub has them."""
    if isinstance(parts, Path):
        return {"model": files_digest(parts)}
    named = {"vision": parts.vision, "language": parts.language}
    found = {k: files_digest(Path(v)) if Path(v).is_dir() else str(v) for k, v in named.items()}
    file = parts.projector_file
    return found if file is None or not file.is_file() else {**found, "projector": file_digest(file)}


def check_settings(recipe: Recipe, one: Stage, directory: Path) -> None:
    """`UsageError` if the directory holds this stage with other settings, and which they are."""
    if not mark_of(directory) or not begun(directory):
        return
    found = settings_in(directory)
    mine = asked(recipe, one)
    if not found or found == mine:
        return
    told, now = flat(found), flat(mine)
    off = [
        f"{path} was {told.get(path, 'not there')}, is {now.get(path, 'not there')}"
        for path in dict.fromkeys([*told, *now])
        if told.get(path) != now.get(path)
    ]
    todo = "choose another --to, go on with its settings, or remove it yourself"
    raise UsageError(f"trained with other settings ({'; '.join(off[:3])})", where=directory, todo=todo)


def settings_in(directory: Path) -> dict[str, Any]:
    """What a finished or half-done stage was asked for; nothing if it had not come to that."""
    if (directory / MANIFEST).exists():
        return read(directory).config
    try:
        found: dict[str, Any] = json.loads((directory / ASKED).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        raise SharecapError("damaged note", where=directory / ASKED, todo="remove the directory") from None
    return found


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Every value of nested JSON data by its path; what stands under "train" without that word."""
    if not isinstance(value, dict | list):
        return {path: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found: dict[str, Any] = {}
    for word, inner in items:
        found |= flat(inner, path if word == "train" else f"{path}.{word}" if path else str(word))
    return found
