"""The simulator's files and batches, as OpenAI's Batch API has them, with faults on demand.

All state lies in one directory, so that the server can be killed and started again like its clients: a batch
that had not ended is worked on from its beginning. It must never answer a line twice into one output file.
"""

import asyncio
import json
import os
import random
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from aiohttp import BodyPartReader, web

from sharecap.artifact import partial_of, write_atomically
from sharecap.errors import UsageError
from sharecap.scenes.chat_completions import RequestError

BATCH_FAULTS = {
    "busy": "an upload meets a 429",
    "vanish": "a batch is made, but the connection closes before its id is told",
    "crowded": "a batch fails because too much is queued",
    "expire": "a batch expires halfway",
    "error": "a line is an error instead of an answer",
    "lost": "a line is in no file",
}
"""What can go wrong, as a probability per upload, batch or line."""

MOST_LINES, MOST_BYTES = 50_000, 200_000_000
Reply = Callable[[bytes], tuple[int, dict[str, Any]]]
"""From a chat request's body to (status, body)."""


def check_batch_faults(faults: Mapping[str, float]) -> None:
    """`UsageError` unless every name is known and every probability is one."""
    for name, rate in faults.items():
        if name not in BATCH_FAULTS or not 0 <= rate <= 1:
            known = ", ".join(f"{name} ({what})" for name, what in BATCH_FAULTS.items())
            raise UsageError("no such fault of batches", where=f"{name}={rate}", todo=f"Choose from {known}")


class BatchFiles:
    """The handlers. `directory` holds `files/ID` and `batches/ID.json`; `line_ms` is the time of one line."""

    def __init__(
        self, directory: Path, reply: Reply, faults: Mapping[str, float], seed: int, line_ms: float
    ) -> None:
        check_batch_faults(faults)
        self.files, self.batches = directory / "files", directory / "batches"
        self.reply, self.faults, self.seed, self.line_ms = reply, faults, seed, line_ms
        self.uploads = 0
        self.tasks: set[asyncio.Task[None]] = set()
        try:
            for place in (self.files, self.batches):
                place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"can't keep batches here ({error.strerror})", where=directory) from None

    def join(self, app: web.Application) -> None:
        """Add the routes, and work on what an earlier server left when the application starts."""
        app.router.add_post("/v1/files", self.upload)
        app.router.add_get("/v1/files/{id}/content", self.content)
        app.router.add_delete("/v1/files/{id}", self.remove)
        app.router.add_post("/v1/batches", self.create)
        app.router.add_get("/v1/batches", self.page)
        app.router.add_get("/v1/batches/{id}", self.get)
        app.router.add_post("/v1/batches/{id}/cancel", self.cancel)
        app.on_startup.append(self.resume)
        app.on_cleanup.append(self.leave)

    async def resume(self, _: web.Application) -> None:
        """Go on with every batch that has not ended."""
        for path in self.batches.glob("*.json"):
            if json.loads(path.read_text())["status"] in ("validating", "in_progress", "cancelling"):
                self.start(path.stem)

    async def leave(self, _: web.Application) -> None:
        """Let go of the batches that are being worked on."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def upload(self, request: web.Request) -> web.Response:
        """POST /v1/files."""
        self.uploads += 1
        if self.drawn("busy", f"{self.uploads}"):
            limit = RequestError("Rate limit reached for uploads.", status=429, code="rate_limit_exceeded")
            return web.json_response(limit.body(), status=429, headers={"Retry-After": "0.01"})
        purpose, name, size, identity = "", "", 0, f"file-{secrets.token_hex(12)}"
        place = partial_of(self.files / identity)
        async for part in await request.multipart():
            if not isinstance(part, BodyPartReader):
                continue
            if part.name == "purpose":
                purpose = await part.text()
            elif part.name == "file":
                name = part.filename or ""
                with open(place, "wb") as file:
                    while piece := await part.read_chunk(1 << 16):
                        size += len(piece)
                        file.write(piece)
        if purpose != "batch" or not name:
            raise RequestError("Give a file with purpose=batch.", code="invalid_request", param="file")
        if size > MOST_BYTES:
            place.unlink()
            raise RequestError("The file is larger than 200 MB.", code="file_too_large", param="file")
        os.replace(place, self.files / identity)
        return web.json_response(
            {"id": identity, "object": "file", "bytes": size, "filename": name, "purpose": purpose}
        )

    async def content(self, request: web.Request) -> web.FileResponse:
        """GET /v1/files/ID/content."""
        return web.FileResponse(self.file_of(request.match_info["id"]))

    async def remove(self, request: web.Request) -> web.Response:
        """DELETE /v1/files/ID."""
        identity = request.match_info["id"]
        self.file_of(identity).unlink()
        return web.json_response({"id": identity, "object": "file", "deleted": True})

    async def create(self, request: web.Request) -> web.Response:
        """POST /v1/batches."""
        try:
            fields = json.loads(await request.read())
            source, metadata = fields["input_file_id"], fields.get("metadata") or {}
            right = fields["endpoint"] == "/v1/chat/completions" and fields["completion_window"] == "24h"
        except (ValueError, KeyError, TypeError):
            raise RequestError("Not a batch.", code="invalid_request") from None
        if not right:
            raise RequestError("The simulator answers chat completions in 24h.", code="invalid_request")
        self.file_of(source)
        identity = f"batch_{time.time_ns():020}"  # ids sort as they were made
        batch = {
            "id": identity,
            "object": "batch",
            "endpoint": fields["endpoint"],
            "completion_window": "24h",
            "input_file_id": source,
            "created_at": int(time.time()),
            "status": "validating",
            "metadata": metadata,
            "number": len(list(self.batches.glob("*.json"))),  # what faults are drawn by
            "output_file_id": None,
            "error_file_id": None,
            "errors": None,
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
        }
        self.write(batch)
        self.start(identity)
        if self.drawn("vanish", str(batch["number"])) and request.transport is not None:
            request.transport.abort()
        return web.json_response(batch)

    async def get(self, request: web.Request) -> web.Response:
        """GET /v1/batches/ID."""
        return web.json_response(self.read(request.match_info["id"]))

    async def page(self, request: web.Request) -> web.Response:
        """GET /v1/batches: the newest first, `limit` of them after `after`."""
        limit = min(100, int(request.query.get("limit", "20")))
        after = request.query.get("after", "")
        names = sorted((path.stem for path in self.batches.glob("*.json")), reverse=True)
        names = [name for name in names if not after or name < after]
        found = [self.read(name) for name in names[:limit]]
        return web.json_response({"object": "list", "data": found, "has_more": len(names) > limit})

    async def cancel(self, request: web.Request) -> web.Response:
        """POST /v1/batches/ID/cancel."""
        batch = self.read(request.match_info["id"])
        if batch["status"] in ("validating", "in_progress"):
            batch["status"] = "cancelling"
            self.write(batch)
        return web.json_response(batch)

    def start(self, identity: str) -> None:
        """Work on a batch beside everything else."""
        task = asyncio.create_task(self.work(identity))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def work(self, identity: str) -> None:
        """Answer a batch's lines, and close it as completed, expired, cancelled or failed."""
        batch = self.read(identity)
        lines = list(self.lines(batch))
        wrong = self.validated(batch, lines)
        if wrong:
            batch["status"], batch["errors"] = "failed", {"object": "list", "data": [wrong]}
            self.write(batch)
            return
        number, counts = str(batch["number"]), batch["request_counts"]
        counts.update(total=len(lines), completed=0, failed=0)
        expires = self.drawn("expire", number)
        output, errors, status = list[str](), list[str](), "completed"
        for place, line in enumerate(lines):
            await asyncio.sleep(self.line_ms / 1000)
            if self.read(identity)["status"] == "cancelling":
                status = "cancelled"
            elif expires and place >= len(lines) // 2:
                status = "expired"
            self.answer(line, status, f"{number}/{line['custom_id']}", output, errors)
            counts.update(completed=len(output), failed=len(errors))
            if status == "completed":
                batch["status"] = "in_progress"
                self.write(batch)
        for field, rows in (("output_file_id", output), ("error_file_id", errors)):
            if rows:
                batch[field] = f"file-{identity}-{field[:5]}"
                write_atomically(self.files / batch[field], "".join(rows))
        batch["status"] = status
        self.write(batch)

    def answer(self, line: Any, status: str, chance: str, output: list[str], errors: list[str]) -> None:
        """Put a line's answer or error where it belongs."""
        row: dict[str, Any] = {"id": f"batch_req_{line['custom_id'][:16]}", "custom_id": line["custom_id"]}
        if status != "completed":
            code = f"batch_{status}"
            error = {"code": code, "message": "This request could not be executed in time."}
            errors.append(json.dumps({**row, "response": None, "error": error}) + "\n")
        elif self.drawn("lost", chance):
            return
        elif self.drawn("error", chance):
            body = {"error": {"message": "The server had an error.", "code": "server_error"}}
            response = {"status_code": 500, "request_id": "r", "body": body}
            errors.append(json.dumps({**row, "response": response, "error": None}) + "\n")
        else:
            status_code, body = self.reply(json.dumps(line["body"]).encode())
            response = {"status_code": status_code, "request_id": "r", "body": body}
            (output if status_code == 200 else errors).append(
                json.dumps({**row, "response": response, "error": None}) + "\n"
            )

    def validated(self, batch: dict[str, Any], lines: list[Any]) -> dict[str, Any] | None:
        """What is wrong with a batch as a whole, if anything is."""
        if self.drawn("crowded", str(batch["number"])):
            return {"code": "token_limit_exceeded", "message": "Enqueued token limit reached.", "line": None}
        names = [line.get("custom_id") if isinstance(line, dict) else None for line in lines]
        if not lines or len(lines) > MOST_LINES:
            return {"code": "invalid_file", "message": "Give 1 to 50,000 requests.", "line": None}
        if None in names or len(set(names)) < len(names):
            return {"code": "invalid_custom_id", "message": "custom_id is missing or repeated.", "line": None}
        return None

    def lines(self, batch: dict[str, Any]) -> Iterator[Any]:
        """The requests of a batch; None for a line that is no JSON."""
        with open(self.file_of(batch["input_file_id"]), "rb") as file:
            for line in file:
                try:
                    yield json.loads(line)
                except ValueError:
                    yield None

    def drawn(self, fault: str, of: str) -> bool:
        """Whether a fault befalls this upload, batch or line: always the same for the same seed."""
        rate = self.faults.get(fault, 0.0)
        return random.Random(f"{fault}/{self.seed}/{of}").random() < rate

    def file_of(self, identity: str) -> Path:
        """Where a file lies; a 404 if there is none."""
        place = self.files / identity
        if not identity.replace("-", "").replace("_", "").isalnum() or not place.is_file():
            raise RequestError(f"No such file: {identity[:80]}", status=404, code="not_found")
        return place

    def read(self, identity: str) -> dict[str, Any]:
        """A batch as it stands; a 404 if there is none."""
        place = self.batches / f"{identity}.json"
        if not identity.replace("_", "").isalnum() or not place.is_file():
            raise RequestError(f"No such batch: {identity[:80]}", status=404, code="not_found")
        batch: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
        return batch

    def write(self, batch: dict[str, Any]) -> None:
        """Keep a batch as it stands."""
        write_atomically(self.batches / f"{batch['id']}.json", json.dumps(batch))
