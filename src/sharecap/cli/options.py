"""Options that commands share, written once: a function takes them and makes what they ask for."""

import functools
import inspect
from collections.abc import Callable
from typing import Any


def takes(options: Callable[..., Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The command gets what `options` makes of its parameters, as its first argument.

    On the command line it has the parameters of `options`, then its own.
    """
    shared = list(inspect.signature(options).parameters)

    def made(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def whole(**given: Any) -> None:
            asked = {name: given.pop(name) for name in shared}
            command(options(**asked), **given)

        parameters, hints = list[inspect.Parameter](), dict[str, Any]()
        for function, taken in ((options, 0), (command, 1)):
            own = list(inspect.signature(function).parameters.values())[taken:]
            parameters += [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own]
            hints |= {one.name: function.__annotations__[one.name] for one in own}
        whole.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        whole.__annotations__ = hints
        return whole

    return made
