"""The request key: what makes two requests the same, so that no answer is ever paid for twice (invariant 1).

It digests the image's bytes, how they are prepared, the rendered messages, the model and the sampling. It
must not depend on where the server or the image lies, on time, or on the order of requests.
"""

import functools
import hashlib
import json
from dataclasses import asdict
from json.encoder import encode_basestring_ascii
from typing import Any

from sharecap.captions.captioner import Sampling


def messages(prompt: str, image: Any) -> list[dict[str, Any]]:
    """The chat messages of a captioning request: one user turn, `image` (a content part) before the words."""
    return [{"role": "user", "content": [image, {"type": "text", "text": prompt}]}]


def request_key(image_id: str, preparation: str, prompt: str, model: str, sampling: Sampling) -> bytes:
    """32 bytes that name the request."""
    rest = _rest(preparation, prompt, model, sampling)
    return hashlib.sha256(b"".join((b"[", encode_basestring_ascii(image_id).encode(), b", ", rest))).digest()


@functools.lru_cache(maxsize=1024)
def _rest(preparation: str, prompt: str, model: str, sampling: Sampling) -> bytes:
    """The JSON list's part after the image: the same for all images that are asked the same."""
    what = [preparation, messages(prompt, {"type": "image"}), model, asdict(sampling)]
    return json.dumps(what, ensure_ascii=False, sort_keys=True)[1:].encode()
