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
    return key_of(image_id, question(preparation, prompt, model, sampling))


def key_of(image_id: str, asked: bytes) -> bytes:
    """The request's key, given what `question` said of it."""
    digest = _BEGIN.copy()  # which takes half as long as a new one
    digest.update(encode_basestring_ascii(image_id).encode())
    digest.update(asked)
    return digest.digest()


_BEGIN = hashlib.sha256(b"[")


@functools.lru_cache(maxsize=1024)
def question(preparation: str, prompt: str, model: str, sampling: Sampling) -> bytes:
    """What enters the key besides the image, the same for all images that are asked the same.

    It is the part of a JSON list after its first item.
    """
    what = ["", preparation, messages(prompt, {"type": "image"}), model, asdict(sampling)]
    return json.dumps(what, ensure_ascii=False, sort_keys=True).removeprefix('[""').encode()
