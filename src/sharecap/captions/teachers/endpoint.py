"""A captioner behind an OpenAI-compatible chat-completions endpoint, over aiohttp.

One call is one HTTP request: repeating, waiting and paying are the run's business, so nothing is hidden here.
The API key goes into one header and nowhere else; redirects are not followed, since they would carry it away.
"""

import functools
import io
import json
import re
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Any

import aiohttp
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sharecap.captions.captioner import (
    ANYWHERE,
    Answer,
    BusyError,
    FatalError,
    FilteredError,
    Place,
    RejectedError,
    Request,
    Sampling,
    TeacherError,
    UnavailableError,
)
from sharecap.captions.keys import messages
from sharecap.captions.pace import NO_LIMITS, Limits, limits_of, seconds_until
from sharecap.captions.prepare import RULE, Preparer
from sharecap.records import NO_IMAGE, Usage

OPENAI = "https://api.openai.com/v1"
MAX_ANSWER_BYTES = 4_000_000
"""A longer response is no answer but a fault."""

SHORT_BODY_BYTES = 1 << 20
"""Longer request bodies are handed to the socket piece by piece, lest one request hold up the others."""

_PICTURE = "\0picture\0"
"""Stands for the picture's data URL in a rendered request; no prompt can come before it."""


_JSON = {"Content-Type": "application/json"}


class _Tolerant(BaseModel):
    model_config = ConfigDict(extra="ignore")


class _Message(_Tolerant):
    content: str | None = None
    refusal: str | None = None


class _Choice(_Tolerant):
    message: _Message
    finish_reason: str | None = None


class _Usage(_Tolerant):
    prompt_tokens: int = Field(ge=0, le=10**9)
    completion_tokens: int = Field(default=0, ge=0, le=10**9)


class _Completion(_Tolerant):
    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None


class _Part(_Tolerant):
    delta: _Message = _Message()


class _Problem(_Tolerant):
    message: str = ""
    code: str | int | None = None
    type: str | None = None


class _Chunk(_Tolerant):
    choices: list[_Part] = []
    error: _Problem | str | None = None


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
        self._preparer = Preparer()
        self._around = functools.lru_cache(maxsize=64)(self._rendered_around)

    async def answer(self, request: Request, place: Place = ANYWHERE) -> Answer:
        """One request, one answer; `TeacherError` or `ImageError` otherwise."""
        if request.image is NO_IMAGE:
            body = self.body(request.prompt, None, request.sampling, request.system)
            payload = json.dumps(body).encode()
        else:
            assert not request.system, "no prompt pack has one"
            url = await self._preparer.data_url(request.image)
            payload = self.payload(request.prompt, url, request.sampling)
        async with place:
            return await self.exchange(payload)

    async def exchange(self, payload: bytes) -> Answer:
        """Send the JSON of one request; its answer, or `TeacherError`."""
        data = payload if len(payload) <= SHORT_BODY_BYTES else io.BytesIO(payload)
        try:
            async with self._open().post(
                self.url, data=data, headers=_JSON, allow_redirects=False
            ) as response:
                text = await self._text(response)
                limits = limits_of(response.headers, datetime.now(UTC))
                if response.status != 200:
                    raise self._refused(response.status, text, _retry_after(response.headers), limits)
        except TimeoutError:
            what = f"no answer within {self._timeout_s:g} s"
            raise UnavailableError(
                "timeout", what, where=self.url, maybe_billed=True, overloaded=True
            ) from None
        except (aiohttp.ClientConnectorError, aiohttp.InvalidURL) as error:
            what = f"cannot connect ({self._clean(str(error))})"
            raise UnavailableError("unreachable", what, where=self.url, maybe_billed=False) from None
        except (aiohttp.ClientError, ConnectionError) as error:
            what = f"connection lost ({self._clean(str(error)) or type(error).__name__})"
            raise UnavailableError("dropped", what, where=self.url, maybe_billed=True) from None
        return self._parsed(text, limits)

    async def stream(self, request: Request) -> AsyncIterator[str]:
        """The answer's words as they come, for who reads along; a server that can't stream says them at once.

        Nothing is booked: this is for looking, never for a layer.
        """
        url = await self._preparer.data_url(request.image)
        body = self.body(request.prompt, url.decode(), request.sampling) | {"stream": True}
        try:
            async with self._open().post(self.url, json=body, allow_redirects=False) as response:
                if response.status != 200:
                    raise self._refused(response.status, await self._text(response), None)
                if response.content_type != "text/event-stream":
                    yield self._parsed(await self._text(response)).text
                    return
                size = 0
                async for line in response.content:
                    size += len(line)
                    if size > MAX_ANSWER_BYTES:
                        what = f"response of more than {MAX_ANSWER_BYTES:,} bytes"
                        raise UnavailableError("malformed", what, where=self.url, maybe_billed=True)
                    if piece := self._piece(line):
                        yield piece
        except TimeoutError:
            what = f"no answer within {self._timeout_s:g} s"
            raise UnavailableError("timeout", what, where=self.url, maybe_billed=True) from None
        except (aiohttp.ClientError, ConnectionError, ValueError) as error:
            what = f"connection failed ({self._clean(str(error)) or type(error).__name__})"
            raise UnavailableError("dropped", what, where=self.url, maybe_billed=True) from None

    def _piece(self, line: bytes) -> str:
        """The words in one line of an event stream."""
        data = line.removeprefix(b"data:").strip()
        if not line.startswith(b"data:") or data == b"[DONE]":
            return ""
        try:
            chunk = _Chunk.model_validate_json(data)
        except ValidationError as error:
            what = self._clean(f"not a piece of a chat completion ({error.errors()[0]['msg']})")
            raise UnavailableError("malformed", what, where=self.url, maybe_billed=True) from None
        if chunk.error is not None:
            said = chunk.error if isinstance(chunk.error, str) else chunk.error.message
            what = f"the server failed ({self._clean(said[:300])})"
            raise UnavailableError("server_error", what, where=self.url, maybe_billed=True)
        return (chunk.choices[0].delta.content or "") if chunk.choices else ""

    def body(
        self, prompt: str, image_url: str | None, sampling: Sampling, system: str = ""
    ) -> dict[str, Any]:
        """The JSON of a request."""
        image = {"type": "image_url", "image_url": {"url": image_url}} if image_url is not None else None
        body: dict[str, Any] = {"model": self.name, "messages": messages(prompt, image, system)}
        body[self._limit_field] = sampling.max_tokens
        for field in ("temperature", "top_p", "seed"):
            value = {"temperature": sampling.temperature, "top_p": sampling.top_p, "seed": sampling.seed}[
                field
            ]
            if value is not None:
                body[field] = value
        return body

    def payload(self, prompt: str, image_url: bytes, sampling: Sampling) -> bytes:
        """`body` as JSON, byte for byte; the base64 is not searched for characters to escape."""
        head, tail = self._around(prompt, sampling)
        return b"".join((head, image_url, tail))

    def _rendered_around(self, prompt: str, sampling: Sampling) -> tuple[bytes, bytes]:
        text = json.dumps(self.body(prompt, _PICTURE, sampling)).encode()
        head, _, tail = text.partition(json.dumps(_PICTURE)[1:-1].encode())
        return head, tail

    async def close(self) -> None:
        """Close the connections and end the threads."""
        self._preparer.close()
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

    def _parsed(self, text: bytes, limits: Limits = NO_LIMITS) -> Answer:
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
            limits=limits,
        )

    def _refused(
        self, status: int, text: bytes, retry_after: str | None, limits: Limits = NO_LIMITS
    ) -> TeacherError:
        """The error for an HTTP status that isn't 200."""
        said, code = _said(text)
        said = self._clean(said)[:300]
        answered = f"(HTTP {status}: {said})" if said else f"(HTTP {status})"
        if fatal := self._fatal(status, code):
            what, todo = fatal
            return FatalError(f"{what} {answered}", where=self.url, todo=todo)
        if status in (429, 529) or (status == 503 and retry_after is not None):
            wait = seconds_until(retry_after, datetime.now(UTC))
            what = f"too many requests {answered}"
            return BusyError(what, where=self.url, retry_after_s=wait, limits=limits)
        if status in (408, 409, 425) or status >= 500:
            what = f"the server failed {answered}"
            # A gateway that lost patience or its server says nothing of the work behind it.
            maybe = status in (408, 502, 504, 524)
            over = status == 503
            return UnavailableError("server_error", what, where=self.url, maybe_billed=maybe, overloaded=over)
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


def _retry_after(headers: Mapping[str, str]) -> str | None:
    """When the server wants to be asked again, by either of the names in use."""
    ms = headers.get("retry-after-ms")
    return f"{ms}ms" if ms else headers.get("Retry-After")
