"""From what a user types to a recipe: the name of one of ours, or a function in a file of the user's own.

The latter runs the user's code; nothing else in this package runs code that it was not shipped with.
"""

import importlib.util
import sys
from collections.abc import Callable, Sequence
from inspect import isfunction
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from sharecap.errors import SharecapError, UsageError
from sharecap.recipes.at_size import recipes_of
from sharecap.recipes.design import Experiment
from sharecap.recipes.experiments import EXPERIMENTS
from sharecap.recipes.llava import llava_1_5_7b, llava_1_5_13b, llava_7b
from sharecap.recipes.recipe import Recipe
from sharecap.recipes.settings import meant
from sharecap.recipes.sharegpt4v import sharegpt4v_7b, sharegpt4v_13b
from sharecap.recipes.tiny import tiny

Made = TypeVar("Made", Recipe, Experiment)

OURS: dict[str, Callable[[], Recipe]] = {
    recipe.__name__: recipe
    for recipe in (llava_7b, llava_1_5_7b, llava_1_5_13b, sharegpt4v_7b, sharegpt4v_13b, tiny)
}


def find_recipe(name: str) -> Recipe:
    """The recipe `name`, or what the function of "file.py:function" returns; else a `UsageError`.

    "lab:EXPERIMENT:SIZE:MODEL" is a table with all its rows; a user's own EXPERIMENT is FILE.py:FUNCTION.
    """
    if name in OURS:
        return OURS[name]()
    if name.startswith("lab:"):
        return table(name.removeprefix("lab:"))
    file, colon, function = name.rpartition(":")
    if not colon or not file.endswith(".py"):
        raise UsageError(f"unknown recipe {name!r}", todo=f"{meant(name, OURS)}, or give FILE.py:FUNCTION")
    return own(Path(file), function, Recipe)


def table(name: str) -> Recipe:
    """The recipe "EXPERIMENT:SIZE:MODEL"."""
    typed, size, model = [*name.rsplit(":", 2), "", ""][:3]
    (experiment,) = find_experiments([typed])
    found = {recipe.name.rpartition(":")[2]: recipe for recipe in recipes_of(experiment, size)}
    if model not in found:
        there = ", ".join(f"lab:{typed}:{size}:{known}" for known in found)
        todo = f"there are {there}" if there else "no model learns in it: see sharecap lab --size paper"
        raise UsageError(f"unknown recipe 'lab:{name}'", todo=todo)
    return found[model]


def find_experiments(names: Sequence[str]) -> list[Experiment]:
    """The experiments of these names, "all" of them, or those of the user's own functions; `UsageError`."""
    if "all" in names:
        if len(names) > 1:
            raise UsageError("all is all there are", todo="name it alone; your own go into another call")
        return [make() for make in EXPERIMENTS.values()]
    found = []
    for name in names:
        file, colon, function = name.rpartition(":")
        if name in EXPERIMENTS:
            found.append(EXPERIMENTS[name]())
        elif colon and file.endswith(".py"):
            found.append(own(Path(file), function, Experiment))
        else:
            todo = f"{meant(name, EXPERIMENTS)}, give FILE.py:FUNCTION, or see sharecap lab --list"
            raise UsageError(f"unknown experiment {name!r}", todo=todo)
    return found


def listed_lines() -> list[str]:
    """The experiments, for people."""
    found = [make() for make in EXPERIMENTS.values()]
    width = max(len(one.name) for one in found)
    return [
        f"{one.name:<{width}}  {one.where or 'beyond the paper'}: {one.title} "
        + (f"({len(one.designs)} models)" if one.designs else "(no model of its own)")
        for one in found
    ]


def own(file: Path, function: str, kind: type[Made]) -> Made:
    """Run a user's file and call one of its functions, which must return a `kind`."""
    what, place = {Recipe: "a recipe", Experiment: "an experiment"}[kind], f"{file}:{function}"
    if not file.is_file():
        raise UsageError("no such file", where=file, todo=f"give one with a function that returns {what}")
    spec = importlib.util.spec_from_file_location(f"recipe_of_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    try:
        spec.loader.exec_module(module)
        called = getattr(module, function, None)
        made = called() if callable(called) else None
    except SharecapError:
        raise
    except SyntaxError as error:
        line = f"{error.filename or file}:{error.lineno or 1}"
        raise UsageError(f"this is no Python ({error.msg})", where=line, todo="mend that line") from error
    except (Exception, SystemExit) as error:  # whatever the user's own code raises
        told = f"the file's own code fails ({type(error).__name__}: {error})"
        raise UsageError(told.replace("\n", " "), where=place) from error
    if called is None:
        raise UsageError(f"no function {function!r}", where=file, todo=f"it has {functions_of(module)}")
    if not isinstance(made, kind):
        got = type(made).__name__ if callable(called) else f"{type(called).__name__}, which can't be called"
        todo = f"it must be a function without arguments that returns a {kind.__module__}.{kind.__name__}"
        raise UsageError(f"not {what} but {got}", where=place, todo=todo)
    return made


def functions_of(module: ModuleType) -> str:
    """The functions that a user's file itself defines, for an error's last words."""
    own = [n for n, v in vars(module).items() if isfunction(v) and v.__module__ == module.__name__]
    return ", ".join(own) or "none"
