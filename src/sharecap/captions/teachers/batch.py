"""The Batch API of OpenAI and of servers like it: files of requests, answered within a day for less money.

One call here is one HTTP request (a list is one per page); what to send, when, and what becomes of answers
is `captions/batches.py`'s business. A body or an id from the server is checked before it is used.
"""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import IO, Any, TypeVar
from urllib.parse import quote

import aiohttp
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sharecap.captions.captioner import (
    ANYWHERE,
    Answer,
    FatalError,
    Place,
    Request,
    TeacherError,
    UnavailableError,
)
from sharecap.captions.prepare import data_url
from sharecap.captions.teachers.endpoint import MAX_ANSWER_BYTES, Endpoint

TAG = "sharecap"
"""Name in a batch's metadata under which it is found again after a kill."""

ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
"""A batch in one of these states changes no more."""

UNDONE = frozenset({"batch_expired", "batch_cancelled"})
"""Codes of lines whose request was never worked on."""

MAX_LINE_BYTES = MAX_ANSWER_BYTES
MAX_PAGES = 1000


Model = TypeVar("Model", bound=BaseModel)


class _Tolerant(BaseModel):
    model_config = ConfigDict(extra="ignore")


class _File(_Tolerant):
    id: str = Field(min_length=1, max_length=200)


class Counts(_Tolerant):
    """How far a batch is, in requests."""

    total: int = Field(default=0, ge=0)
    completed: int = Field(default=0, ge=0)
    failed: int = Field(default=0, ge=0)


class _Problem(_Tolerant):
    code: str | None = None
    message: str = ""


class _Problems(_Tolerant):
    data: list[_Problem] = []


class ServerBatch(_Tolerant):
    """A batch as the server tells of it."""

    id: str = Field(min_length=1, max_length=200)
    status: str
    output_file_id: str | None = None
    error_file_id: str | None = None
    request_counts: Counts | None = None
    metadata: dict[str, str] | None = None
    errors: _Problems | None = None

    @property
    def why(self) -> tuple[str, str]:
        """(code, message) of its first error; empty where there is none."""
        first = self.errors.data[0] if self.errors and self.errors.data else _Problem()
        return first.code or "", first.message


class _Page(_Tolerant):
    data: list[ServerBatch]
    has_more: bool = False


class _Response(_Tolerant):
    status_code: int
    body: Any = None


class _Line(_Tolerant):
    custom_id: str = Field(max_length=200)
    response: _Response | None = None
    error: _Problem | None = None


class BatchTeacher(Endpoint):
    """`base` is the URL up to and without `/batches`. The same model behind the same keys as its endpoint."""

    async def answer(self, request: Request, place: Place = ANYWHERE) -> Answer:  # noqa: ARG002
        """Batches answer no single request."""
        raise FatalError(f"a batch API answers no single request ({request.image.id[:12]})", where=self.base)

    def online(self) -> Endpoint:
        """The same model at the same server, which answers single requests, at the online price."""
        return Endpoint(
            self.base, self.name, self._key, limit_field=self._limit_field, timeout_s=self._timeout_s
        )

    @property
    def base(self) -> str:
        """What tells this server from others."""
        return self.url.removesuffix("/chat/completions")

    def line(self, custom_id: str, request: Request) -> bytes:
        """The request as one line of a batch's file; `ImageError` if its image can't be had. Blocks."""
        body = self.body(request.prompt, data_url(request.image).decode(), request.sampling)
        what = {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}
        return json.dumps(what, ensure_ascii=False).encode() + b"\n"

    async def upload(self, name: str, file: IO[bytes]) -> str:
        """Send a batch's file from its beginning; its id there."""
        file.seek(0)
        # A handle of its own: aiohttp may close what it has sent, and an upload may have to be repeated.
        with open(os.dup(file.fileno()), "rb") as handle:
            form = aiohttp.FormData()
            form.add_field("purpose", "batch")
            form.add_field("file", handle, filename=name, content_type="application/jsonl")
            return self._checked(_File, await self._call("POST", "/files", data=form)).id

    async def create(self, file_id: str, tag: str) -> ServerBatch:
        """Have the server work on an uploaded file."""
        what = {
            "input_file_id": file_id,
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            "metadata": {TAG: tag},
        }
        return self._checked(ServerBatch, await self._call("POST", "/batches", json=what))

    async def look(self, batch_id: str) -> ServerBatch:
        """How far a batch is."""
        return self._checked(ServerBatch, await self._call("GET", f"/batches/{quote(batch_id, safe='')}"))

    async def tagged(self) -> dict[str, ServerBatch]:
        """All batches of the account that sharecap made, by their tags."""
        found: dict[str, ServerBatch] = {}
        after = ""
        for _ in range(MAX_PAGES):
            query = f"/batches?limit=100{'&after=' + quote(after, safe='') if after else ''}"
            page = self._checked(_Page, await self._call("GET", query))
            for batch in page.data:
                if tag := (batch.metadata or {}).get(TAG):
                    found.setdefault(tag, batch)
            if not page.has_more or not page.data or page.data[-1].id == after:
                break
            after = page.data[-1].id
        return found

    async def remove(self, file_id: str) -> None:
        """Delete an uploaded file: accounts have little room."""
        await self._call("DELETE", f"/files/{quote(file_id, safe='')}")

    async def lines(self, file_id: str) -> AsyncIterator[bytes]:
        """The lines of a file, as they come in; one that is too long for an answer is passed over."""
        rest, endless = b"", False
        async with self._reached("GET", f"/files/{quote(file_id, safe='')}/content") as response:
            async for piece in response.content.iter_chunked(1 << 16):
                *whole, rest = (rest + piece).split(b"\n")
                if whole and endless:
                    whole, endless = whole[1:], False
                for line in whole:
                    if line.strip():
                        yield line
                if len(rest) > MAX_LINE_BYTES:
                    rest, endless = b"", True
        if rest.strip() and not endless:
            yield rest

    def outcome(self, line: bytes) -> tuple[str, Answer | TeacherError] | None:
        """(custom id, what became of the request) of a line; None for one that names no request."""
        try:
            parsed = _Line.model_validate_json(line)
        except ValidationError:
            return None
        return parsed.custom_id, self._outcome(parsed)

    def _outcome(self, line: _Line) -> Answer | TeacherError:
        if line.response is None:
            problem = line.error or _Problem(message="neither an answer nor an error")
            code, said = problem.code or "", self._clean(problem.message)[:300]
            kind = code if code in UNDONE else "server_error"
            return UnavailableError(kind, said or code, where=self.base, maybe_billed=False)
        body = json.dumps(line.response.body).encode()
        if line.response.status_code != 200:
            return self._refused(line.response.status_code, body, None)
        try:
            return self._parsed(body)
        except TeacherError as error:
            return error

    def _checked(self, model: type[Model], text: bytes) -> Model:
        try:
            return model.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            what = self._clean(f"not a batch API's answer ({place + ': ' if place else ''}{first['msg']})")
            raise UnavailableError("malformed", what, where=self.base, maybe_billed=True) from None

    def _fatal(self, status: int, code: str) -> tuple[str, str] | None:
        if status == 404:
            todo = "check the address; where the server has no Batch API, leave `batch:` out of the teacher"
            return "no Batch API or no such model there", todo
        return super()._fatal(status, code)

    async def _call(self, method: str, path: str, **options: Any) -> bytes:
        async with self._reached(method, path, **options) as response:
            return await self._text(response)

    @asynccontextmanager
    async def _reached(self, method: str, path: str, **options: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        """A response with status 200; every other outcome is a `TeacherError`."""
        url = self.base + path
        # Hundreds of megabytes take as long as they take: what is bounded is the silence.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=60, sock_read=self._timeout_s)
        try:
            async with self._open().request(
                method, url, allow_redirects=False, timeout=timeout, **options
            ) as response:
                if response.status not in (200, 201):
                    text = await self._text(response)
                    raise self._refused(response.status, text, response.headers.get("Retry-After"))
                yield response
        except TimeoutError:
            what = f"no answer within {self._timeout_s:g} s"
            raise UnavailableError("timeout", what, where=url, maybe_billed=True) from None
        except (aiohttp.ClientConnectorError, aiohttp.InvalidURL) as error:
            what = f"cannot connect ({self._clean(str(error))})"
            raise UnavailableError("unreachable", what, where=url, maybe_billed=False) from None
        except (aiohttp.ClientError, ConnectionError) as error:
            what = f"connection lost ({self._clean(str(error)) or type(error).__name__})"
            raise UnavailableError("dropped", what, where=url, maybe_billed=True) from None
