"""From what a user types to a recipe: the name of one of ours, or a function in a file of the user's own.

The latter runs the user's code; nothing else in this package runs code that it was not shipped with.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path

from sharecap.errors import SharecapError, UsageError
from sharecap.recipes.llava import llava_1_5_7b, llava_1_5_13b, llava_7b
from sharecap.recipes.recipe import Recipe
from sharecap.recipes.settings import meant
from sharecap.recipes.sharegpt4v import sharegpt4v_7b, sharegpt4v_13b
from sharecap.recipes.tiny import tiny

OURS: dict[str, Callable[[], Recipe]] = {
    recipe.__name__: recipe
    for recipe in (llava_7b, llava_1_5_7b, llava_1_5_13b, sharegpt4v_7b, sharegpt4v_13b, tiny)
}


def find_recipe(name: str) -> Recipe:
    """The recipe `name`, or what the function of "file.py:function" returns; else a `UsageError`."""
    if name in OURS:
        return OURS[name]()
    file, colon, function = name.rpartition(":")
    if not colon or not file.endswith(".py"):
        raise UsageError(f"unknown recipe {name!r}", todo=f"{meant(name, OURS)}, or give FILE.py:FUNCTION")
    return own_recipe(Path(file), function)


def own_recipe(file: Path, function: str) -> Recipe:
    """Run a user's file and call one of its functions."""
    if not file.is_file():
        raise UsageError("no such file of recipes", where=file)
    spec = importlib.util.spec_from_file_location(f"recipe_of_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        found = getattr(module, function, None)
        made = found() if callable(found) else None
    except SharecapError:
        raise
    except (Exception, SystemExit) as error:  # whatever the user's own code raises
        what = f"the recipe's own code fails ({type(error).__name__}: {error})"
        raise UsageError(what.replace("\n", " "), where=f"{file}:{function}") from error
    if found is None:
        raise UsageError(f"no function {function!r}", where=file)
    if not isinstance(made, Recipe):
        todo = "it must take no arguments and return a sharecap.recipes.recipe.Recipe"
        raise UsageError("not a recipe", where=f"{file}:{function}", todo=todo)
    return made
