"""A captioner behind an OpenAI-compatible chat-completions endpoint, over aiohttp.

One call is one HTTP request: repeating, waiting and paying are the run's business, so nothing is hidden here.
The API key goes into one header and nowhere else; redirects are not followed, since they would carry it away.
"""

import asyncio
import re
from email.utils import parsedate_to_datetime
from time import time
from typing import Any

import aiohttp
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sharecap.captions.captioner import (
    Answer,
    BusyError,
    FatalError,
    FilteredError,
    RejectedError,
    Request,
    Sampling,
    TeacherError,
    UnavailableError,
)
from sharecap.captions.keys import messages
from sharecap.captions.prepare import RULE, data_url
from sharecap.records import Usage

OPENAI = "https://api.openai.com/v1"
MAX_ANSWER_BYTES = 4_000_000
"""A longer response is no answer but a fault."""


class _Tolerant(BaseModel):
    model_config = ConfigDict(extra="ignore")


class _Message(_Tolerant):
    content: str | None = None
    refusal: str | None = None


class _Choice(_Tolerant):
    message: _Message
    finish_reason: str | None = None


class _Usage(_Tolerant):
    prompt_tokens: int = Field(ge=0)
    completion_tokens: int = Field(default=0, ge=0)


class _Completion(_Tolerant):
    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None


class _Problem(_Tolerant):
    message: str = ""
    code: str | int | None = None
    type: str | None = None


class _ErrorBody(_Tolerant):
    error: _Problem | str


class Endpoint:
    """`base` is the URL up to and without `/chat/completions`."""

    preparation = RULE

    def __init__(
        self,
        base: str,
        model: str,
        key: str = "",
        *,
        limit_field: str = "max_tokens",
        timeout_s: float = 300.0,
        concurrency: int = 16,
    ) -> None:
        self.name = self.fingerprint = model
        self.url = f"{base}/chat/completions"
        self._key, self._limit_field = key, limit_field
        self._timeout_s, self.concurrency = timeout_s, concurrency
        self._session: aiohttp.ClientSession | None = None

    async def answer(self, request: Request) -> Answer:
        """One request, one answer; `TeacherError` or `ImageError` otherwise."""
        # Reading and base64 take milliseconds per picture: not on the event loop.
        url = await asyncio.to_thread(data_url, request.image)
        body = self.body(request.prompt, url, request.sampling)
        try:
            async with self._open().post(self.url, json=body, allow_redirects=False) as response:
                text = await self._text(response)
                if response.status != 200:
                    raise self._refused(response.status, text, response.headers.get("Retry-After"))
        except TimeoutError:
            what = f"no answer within {self._timeout_s:g} s"
            raise UnavailableError("timeout", what, where=self.url, maybe_billed=True) from None
        except (aiohttp.ClientConnectorError, aiohttp.InvalidURL) as error:
            what = f"cannot connect ({self._clean(str(error))})"
            raise UnavailableError("unreachable", what, where=self.url, maybe_billed=False) from None
        except (aiohttp.ClientError, ConnectionError) as error:
            what = f"connection lost ({self._clean(str(error)) or type(error).__name__})"
            raise UnavailableError("dropped", what, where=self.url, maybe_billed=True) from None
        return self._parsed(text)

    def body(self, prompt: str, image_url: str, sampling: Sampling) -> dict[str, Any]:
        """The JSON of a request."""
        image = {"type": "image_url", "image_url": {"url": image_url}}
        body: dict[str, Any] = {"model": self.name, "messages": messages(prompt, image)}
        body[self._limit_field] = sampling.max_tokens
        for field in ("temperature", "top_p", "seed"):
            value = {"temperature": sampling.temperature, "top_p": sampling.top_p, "seed": sampling.seed}[
                field
            ]
            if value is not None:
                body[field] = value
        return body

    async def close(self) -> None:
        """Close the connections."""
        if self._session:
            await self._session.close()
            self._session = None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
            self._session = aiohttp.ClientSession(
                headers=headers,
                # The run bounds what is in flight; a second bound here would only hide requests in a queue.
                connector=aiohttp.TCPConnector(limit=0),
                timeout=aiohttp.ClientTimeout(total=self._timeout_s),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    async def _text(self, response: aiohttp.ClientResponse) -> bytes:
        pieces, size = [], 0
        async for piece in response.content.iter_any():
            pieces.append(piece)
            size += len(piece)
            if size > MAX_ANSWER_BYTES:
                what = f"response of more than {MAX_ANSWER_BYTES:,} bytes"
                raise UnavailableError("malformed", what, where=self.url, maybe_billed=True)
        return b"".join(pieces)

    def _parsed(self, text: bytes) -> Answer:
        try:
            completion = _Completion.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            what = f"not a chat completion ({place + ': ' if place else ''}{first['msg']})"
            raise UnavailableError(
                "malformed", self._clean(what), where=self.url, maybe_billed=True
            ) from None
        choice, usage = completion.choices[0], completion.usage
        return Answer(
            text=choice.message.content or "",
            finish_reason=choice.finish_reason or "stop",
            usage=Usage(usage.prompt_tokens, usage.completion_tokens) if usage else None,
            refusal=choice.message.refusal or "",
        )

    def _refused(self, status: int, text: bytes, retry_after: str | None) -> TeacherError:
        """The error for an HTTP status that isn't 200."""
        said, code = _said(text)
        said = self._clean(said)[:300]
        answered = f"(HTTP {status}: {said})" if said else f"(HTTP {status})"
        if fatal := self._fatal(status, code):
            what, todo = fatal
            return FatalError(f"{what} {answered}", where=self.url, todo=todo)
        if status == 429:
            wait = _seconds(retry_after)
            return BusyError(f"too many requests {answered}", where=self.url, retry_after_s=wait)
        if status in (408, 409, 425) or status >= 500:
            what = f"the server failed {answered}"
            # A gateway that lost patience or its server says nothing of the work behind it.
            maybe = status in (408, 502, 504, 524)
            return UnavailableError("server_error", what, where=self.url, maybe_billed=maybe)
        if code in ("content_policy_violation", "content_filter", "moderation_blocked"):
            return FilteredError(f"content filter {answered}", where=self.url)
        return RejectedError(f"request rejected {answered}", where=self.url)

    def _fatal(self, status: int, code: str) -> tuple[str, str] | None:
        """What happened and what to do, where no request can succeed until the user acts."""
        if status in (401, 403):
            todo = "set the environment variable OPENAI_API_KEY to a key that may use this model"
            return "the endpoint refuses the key", todo
        if status == 404:
            todo = f"check the address, and that the server offers the model {self.name!r}"
            return "no such model or address", todo
        if 300 <= status < 400:
            return "the endpoint redirects", "give the address that it redirects to"
        if status == 429 and code in ("insufficient_quota", "billing_hard_limit_reached"):
            return "the account has no credit", "top up the account and run the same command again"
        return None

    def _clean(self, text: str) -> str:
        """`text` on one line, without anything that looks like a key."""
        if self._key:
            text = text.replace(self._key, "***")
        text = re.sub(r"\b(sk[-_]|key[-_]|Bearer )[\w*.-]{6,}", r"\1***", text)
        return " ".join(text.split())


def _said(text: bytes) -> tuple[str, str]:
    """(message, code) of an error body; a body in no known form is its own message."""
    try:
        problem = _ErrorBody.model_validate_json(text).error
    except ValidationError:
        plain = text[:300].decode("utf-8", "replace")
        return ("" if "<html" in plain.lower() else plain), ""
    if isinstance(problem, str):
        return problem, ""
    return problem.message, str(problem.code or problem.type or "")


def _seconds(retry_after: str | None) -> float | None:
    """`Retry-After` in seconds: a number, or a date."""
    if retry_after is None:
        return None
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time())
    except (ValueError, TypeError, OverflowError):
        return None
