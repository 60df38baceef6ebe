"""Something that captions: the one protocol of the paid endpoint, the local checkpoint and the simulator.

Whatever a captioner does, it must never hand out text that is no answer to the request; what went wrong
instead is an exception whose class says what to do about it.
"""

from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

from sharecap.captions.pace import NO_LIMITS, Limits
from sharecap.errors import SharecapError
from sharecap.records import Image, Usage


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the captioner draws its words. None leaves the choice to the server."""

    max_tokens: int = 1024  # tokens of the answer; a longer one counts as truncated
    temperature: float | None = None  # 0 is greedy; a local captioner takes None as 0
    top_p: float | None = None
    seed: int | None = None


DEFAULT_SAMPLING = Sampling()


@dataclass(frozen=True, slots=True)
class Request:
    """One question about one image, or about none (`NO_IMAGE`): then only an endpoint can answer."""

    image: Image  # its bytes must still be those that its id names
    prompt: str
    sampling: Sampling = DEFAULT_SAMPLING
    system: str = ""  # what stands before the question, in a turn of its own


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, as the captioner reported it. `usage` is None where it reports none."""

    text: str
    finish_reason: str  # "stop", "length", "content_filter", ...
    usage: Usage | None = None
    refusal: str = ""  # the provider's own refusal field, if it has one
    limits: Limits = NO_LIMITS  # what the response said of the server's limits


Place = AbstractAsyncContextManager[Any]
"""Held while a request is out; entering it waits for the server's leave."""

ANYWHERE: Place = nullcontext()
"""For who sends a single request, and need not wait."""


class Captioner(Protocol):
    """Images and a prompt in, captions out."""

    @property
    def name(self) -> str:
        """The model's name, as people know it."""

    @property
    def fingerprint(self) -> str:
        """What tells this model from any other; enters the request key."""

    @property
    def preparation(self) -> str:
        """The rule by which an image's bytes become what the model sees; enters the request key."""

    @property
    def concurrency(self) -> int:
        """How many requests at a time suit it, where the user doesn't say."""

    async def answer(self, request: Request, place: Place = ANYWHERE) -> Answer:
        """Caption one image; `TeacherError` or `ImageError` if that can't be done.

        What can be got ready is before `place` is taken: a place is dear, and held for nothing but the wait.
        """

    async def close(self) -> None:
        """Free connections and memory."""


class TeacherError(SharecapError):
    """The captioner gave no answer. `kind` is one word, for counting."""

    kind = "error"


class FatalError(TeacherError):
    """No request can succeed until the user changes something: wrong key, unknown model, wrong address."""

    kind = "fatal"


class RejectedError(TeacherError):
    """The captioner will not answer this request, however often it is sent."""

    kind = "rejected"


class FilteredError(RejectedError):
    """A content filter withheld the answer."""

    kind = "content_filter"


class NotSentError(TeacherError):
    """The run stopped before the request left."""

    kind = "not_submitted"


class BusyError(TeacherError):
    """Too many requests; `retry_after_s` is the server's own word on when to come back, if it gave one."""

    kind = "rate_limited"

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        retry_after_s: float | None = None,
        limits: Limits = NO_LIMITS,
    ) -> None:
        super().__init__(what, where=where)
        self.retry_after_s, self.limits = retry_after_s, limits


class UnavailableError(TeacherError):
    """The server failed or went away. `maybe_billed`: it may have worked on the request and charge for it.

    `overloaded`: it looks as if the server had too much to do.
    """

    def __init__(
        self, kind: str, what: str, *, where: object = None, maybe_billed: bool, overloaded: bool = False
    ) -> None:
        super().__init__(what, where=where)
        self.kind, self.maybe_billed, self.overloaded = kind, maybe_billed, overloaded
