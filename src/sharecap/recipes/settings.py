"""`--set path=value`: a recipe with some of its fields changed, and what differs between two recipes.

A path goes through the dataclasses by field name: `parts.vision`, `pretrain.batch_rows` (a stage's training
settings need no `train`), `pretrain.rules.vision.from_block`, `sft.rows.0.file`: an element of a list goes by
its number or by its first field. Values are parsed by the field's type. It must never drop a word that it
does not understand.
"""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass, replace
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from sharecap.artifact import plain
from sharecap.errors import SharecapError, UsageError
from sharecap.recipes.recipe import Recipe, Stage


def with_settings(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """The recipe with every "path=value" done; `UsageError` for the first that can't be."""
    changes: dict[str, Any] = {}  # nested like the recipe: fields that depend on each other change at once
    for setting in settings:
        path, equals, value = setting.partition("=")
        if not equals or not path.strip():
            raise UsageError(f"not a setting: {setting!r}", todo="give PATH=VALUE, such as sft.batch_rows=64")
        note(changes, place(recipe, path.strip()), value.strip(), path.strip())
    try:
        changed: Recipe = apply(recipe, changes, "")
    except UsageError as error:
        if error.where == "training configuration":  # a stage's own check: say which words led there
            raise UsageError(error.what, where="--set " + " ".join(settings), todo=error.todo) from None
        raise
    return changed


def place(recipe: Recipe, path: str) -> list[str]:
    """The path's words, with those that may be left out."""
    first, *rest = path.split(".")
    if first not in {stage.name for stage in recipe.stages}:
        return [first, *rest]
    own = {field.name for field in fields(Stage)}
    return ["stages", first, *([] if rest and rest[0] in own else ["train"]), *rest]


def note(changes: dict[str, Any], words: Sequence[str], value: str, path: str) -> None:
    """Put one change where it belongs."""
    *above, last = words
    for word in above:
        changes = changes.setdefault(word, {})
        if not isinstance(changes, dict):
            raise UsageError(f"{path} is set, and so is what it is a part of")
    changes[last] = value


def apply(thing: Any, changes: dict[str, Any], path: str) -> Any:
    """`thing`, a dataclass or a tuple of them, with the changes done."""
    if isinstance(thing, tuple):
        names = [str(getattr(item, fields(item)[0].name)) if is_dataclass(item) else "" for item in thing]
        made = list(thing)
        for word, change in changes.items():
            at = int(word) if word.isdecimal() and int(word) < len(thing) else None
            if at is None and word not in names:
                raise unknown(word, names, path)
            at = names.index(word) if at is None else at
            made[at] = changed(made[at], type(made[at]), change, joined(path, word))
        return tuple(made)
    hints = get_type_hints(type(thing))
    known = [field.name for field in fields(thing)]
    for word in changes:
        if word not in known:
            raise unknown(word, [*known, *stage_names(thing)], path)
    return replace(
        thing,
        **{w: changed(getattr(thing, w), hints[w], c, joined(path, w)) for w, c in changes.items()},
    )


def changed(old: Any, hint: Any, change: Any, path: str) -> Any:
    """The new value of one field."""
    if not isinstance(change, dict):
        return parsed(change, hint, path)
    if old is None:  # what isn't there begins as its class says
        kind: Any = next(filter(is_dataclass, get_args(hint)), NoneType)
        old = kind()
    if not is_dataclass(old) and not (isinstance(old, tuple) and any(is_dataclass(x) for x in old)):
        raise UsageError(f"{path} has no fields", todo=f"set it as a whole: {path}=VALUE")
    return apply(old, change, path)


def parsed(text: str, hint: Any, path: str) -> Any:
    """`text` as a value of this type: "none" where None is allowed, tuples with commas."""
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if text.lower() == "none" and NoneType in kinds:
        return None
    simple = [k for k in kinds if k is not NoneType and not any(map(is_dataclass, (k, *get_args(k))))]
    if not simple:
        raise UsageError(f"{path} can't be set as a whole", todo="set its fields one by one")
    try:
        if get_origin(simple[0]) is tuple:
            return items(text, get_args(simple[0]))
        found: Any = Union[tuple(simple)]  # noqa: UP007 - made of a list
        return TypeAdapter(found).validate_strings(text)
    except ValidationError as error:
        why = error.errors()[-1]["msg"]
    except ValueError as error:
        why = str(error)
    raise UsageError(f"{path} can't be {text!r} ({why})", where=f"--set {path}={text}")


def items(text: str, kinds: Sequence[Any]) -> tuple[Any, ...]:
    """Words with commas between them as a tuple of these types; `ValueError` for too few or too many."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    if kinds[-1] is Ellipsis:
        kinds = [kinds[0]] * len(words)
    if len(words) != len(kinds):
        raise ValueError(f"{len(kinds)} values with commas between them, not {len(words)}")
    return tuple(TypeAdapter(k).validate_strings(w) for k, w in zip(kinds, words, strict=True))


def unknown(word: str, known: Sequence[str], path: str) -> SharecapError:
    """The error for a field that isn't there."""
    return UsageError(f"no field {word!r}" + (f" in {path}" if path else ""), todo=meant(word, known))


def stage_names(thing: Any) -> list[str]:
    return [stage.name for stage in thing.stages] if isinstance(thing, Recipe) else []


def meant(word: str, known: Iterable[str]) -> str:
    """What the user can have meant, and all that there is."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return (f"did you mean {close[0]}? " if close else "") + "choose one of " + ", ".join(known)


def joined(path: str, word: str) -> str:
    """One word more, as the user would write it."""
    if path == "stages":
        return word
    return path if word == "train" else f"{path}.{word}" if path else word


def differences(recipe: Recipe, other: Recipe) -> list[str]:
    """One line per field that differs: "pretrain.batch_rows: 256 -> 64"."""
    before, after = leaves(recipe), leaves(other)
    return [
        f"{path}: {before.get(path, '-')} -> {after.get(path, '-')}"
        for path in dict.fromkeys([*before, *after])
        if before.get(path, "-") != after.get(path, "-")
    ]


def leaves(thing: Any, path: str = "") -> dict[str, Any]:
    """Every value of a recipe by its path."""
    if is_dataclass(thing):
        found = ((field.name, getattr(thing, field.name)) for field in fields(thing))
    elif isinstance(thing, tuple) and any(is_dataclass(x) for x in thing):
        found = ((str(getattr(x, fields(x)[0].name)), x) for x in thing)
    else:
        return {path: plain(thing)}
    return {k: v for word, x in found for k, v in leaves(x, joined(path, word)).items()}
