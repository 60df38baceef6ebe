"""OpenAI's chat completions with images, as far as a server must speak them: requests in, bodies out.

Pure functions from bytes to a `Question` and from an answer to its JSON. A request that is wrong raises
`RequestError`, which becomes the error body that OpenAI's clients expect. It must never fetch an image.
"""

import base64
import binascii
import hashlib
import io
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image as Pictures

from sharecap.scenes.world import pixel_digest

MOST_PIXELS = 50_000_000
PIECE = re.compile(r"\s*(?:\w{1,6}|[^\w\s])|\s+$")
"""One "token" of the simulator; the pieces of a text join to the text."""


@dataclass(frozen=True)
class Question:
    """A chat request as far as the simulator understands it."""

    model: str
    prompt: str  # all text of all messages
    image: bytes  # the image file in the data URL; empty: the question is of words alone
    detail: str  # "low" costs a flat number of tokens
    max_tokens: int | None
    sampling: str  # what else can change an answer, as one string


class RequestError(Exception):
    """A request that gets an error body instead of an answer."""

    def __init__(self, message: str, *, status: int = 400, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message, self.status, self.code, self.param = message, status, code, param

    def body(self) -> dict[str, Any]:
        """The error as OpenAI words it."""
        kinds = {401: "authentication_error", 429: "rate_limit_error", 500: "server_error"}
        kind = kinds.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def image_tokens(width: int, height: int, detail: str = "auto") -> int:
    """What an image counts: 85 and 170 per tile of 512 px after scaling to 2048 and 768 (GPT-4V's rule)."""
    if detail == "low":
        return 85
    scale = min(1.0, 2048 / max(width, height))
    scale = min(scale, 768 / min(width, height))
    return 85 + 170 * math.ceil(width * scale / 512) * math.ceil(height * scale / 512)


def read_question(body: bytes) -> Question:
    """The request in a body; `RequestError` with status 400 says what is wrong with it."""
    try:
        fields = json.loads(body)
    except ValueError:
        raise RequestError("The body is not valid JSON.", code="invalid_json") from None
    if not isinstance(fields, dict) or not isinstance(fields.get("model"), str) or not fields["model"]:
        raise RequestError("You must provide a model parameter.", code="missing_parameter", param="model")
    if fields.get("stream"):
        raise RequestError("The simulated teacher doesn't stream.", code="unsupported_value", param="stream")
    if fields.get("n") not in (None, 1):
        raise RequestError("The simulated teacher gives one choice.", code="unsupported_value", param="n")
    limit = fields.get("max_completion_tokens", fields.get("max_tokens"))
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise RequestError("max_tokens must be at least 1.", code="invalid_value", param="max_tokens")
    parts = _parts(fields.get("messages"))
    images = [part["image_url"] for part in parts if part["type"] == "image_url"]
    if len(images) > 1:
        message = f"The simulated teacher looks at no more than one image per request and got {len(images)}."
        raise RequestError(message, code="invalid_value", param="messages")
    prompt = "\n".join(part["text"] for part in parts if part["type"] == "text")
    sampling = {name: fields.get(name) for name in ("temperature", "top_p", "seed")} | {"limit": limit}
    detail = images[0].get("detail") or "auto" if images else "auto"
    image = _payload(images[0]) if images else b""
    return Question(fields["model"], prompt, image, str(detail), limit, json.dumps(sampling, sort_keys=True))


def look(image: bytes) -> tuple[int, int, str]:
    """Width, height and pixel digest of an image file; `RequestError` if it can't be decoded."""
    try:
        with Pictures.open(io.BytesIO(image)) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                message = f"The image has more than {MOST_PIXELS} pixels."
                raise RequestError(message, code="image_too_large", param="messages")
            return picture.width, picture.height, pixel_digest(picture)
    except (OSError, ValueError, SyntaxError, Pictures.DecompressionBombError):
        message = "You uploaded an unsupported image or its data is damaged."
        raise RequestError(message, code="invalid_image", param="messages") from None


def completion(question: Question, text: str, finish_reason: str, for_image: int) -> dict[str, Any]:
    """The body of an answer, cut at the question's `max_tokens`; `for_image` is what the image counts."""
    pieces = PIECE.findall(text)
    if question.max_tokens is not None and len(pieces) > question.max_tokens:
        pieces, finish_reason = pieces[: question.max_tokens], "length"
    content = "".join(pieces)
    for_prompt = len(PIECE.findall(question.prompt)) + for_image
    message = {"role": "assistant", "content": content, "refusal": None}
    return {
        "id": f"chatcmpl-{digest(question.prompt + content)[:24]}",
        "object": "chat.completion",
        "created": 0,  # no clock: equal requests get equal bodies
        "model": question.model,
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
        "usage": {
            "prompt_tokens": for_prompt,
            "completion_tokens": len(pieces),
            "total_tokens": for_prompt + len(pieces),
        },
    }


def digest(text: str) -> str:
    """sha256 of a text that came from JSON, 64 hex digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _parts(messages: Any) -> list[dict[str, Any]]:
    """The text and image parts of all messages, in order, each checked for its shape."""
    wrong = RequestError("messages must be a list of chat messages.", code="invalid_type", param="messages")
    if not isinstance(messages, list) or not messages:
        raise wrong
    parts: list[dict[str, Any]] = []
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, str):
            content = [{"type": "text", "text": content}]
        if not isinstance(content, list):
            raise wrong
        for part in content:
            match part:
                case {"type": "text", "text": str()} | {"type": "image_url", "image_url": {"url": str()}}:
                    parts.append(part)
                case _:
                    text = "A content part must be text or an image_url."
                    raise RequestError(text, code="invalid_value", param="messages")
    return parts


def _payload(image_url: Mapping[str, Any]) -> bytes:
    head, _, data = image_url["url"].partition(",")
    if not (head.startswith("data:image/") and head.endswith(";base64")):
        message = "The simulated teacher fetches no images: send a data URL (data:image/png;base64,...)."
        raise RequestError(message, code="invalid_image_url", param="messages")
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error:
        message = "The data URL is not valid base64."
        raise RequestError(message, code="invalid_base64", param="messages") from None
