"""Errors that a user can act on: one line that says what happened, where, and what to do next.

Every error that may reach a terminal is a `SharecapError`; its class fixes the exit code
(0 done, 1 failed, 2 wrong usage, 3 stopped by a gate or the budget, 130 interrupted).
A programming error is none of these: it keeps its traceback.
"""


class SharecapError(Exception):
    """Something failed that the user can mend. `where` is a path, URL or row; `todo` is the next step."""

    exit_code = 1

    def __init__(self, what: str, *, where: object = None, todo: str | None = None) -> None:
        self.what, self.where, self.todo = what, None if where is None else str(where), todo
        line = what if self.where is None else f"{what}: {self.where}"
        super().__init__(line if todo is None else f"{line}. {todo}")


class UsageError(SharecapError):
    """The command or the configuration is wrong; nothing was started."""

    exit_code = 2


class Stopped(SharecapError):  # noqa: N818  (an outcome, not a fault)
    """A gate or the budget stopped the run. All that was done is kept; the same command goes on."""

    exit_code = 3


class Interrupted(SharecapError):  # noqa: N818  (an outcome, not a fault)
    """The user interrupted the run. All that was done is kept; the same command goes on from there."""

    exit_code = 130
