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


def messages(prompt: str, image: Any, system: str = "") -> list[dict[str, Any]]:
    """The chat messages of a request: a user turn, `image` (a content part) before the words if there is one.

    `system` goes before it, where there is one.
    """
    first = [{"role": "system", "content": system}] if system else []
    content = prompt if image is None else [image, {"type": "text", "text": prompt}]
    return [*first, {"role": "user", "content": content}]


def request_key(image_id: str, preparation: str, prompt: str, model: str, sampling: Sampling) -> bytes:
    """32 bytes that name the request."""
    return key_of(image_id, question(preparation, prompt, model, sampling))


def key_of(image_id: str, asked: bytes) -> bytes:
    """The request's key, given what `question` said of it."""
    digest = _BEGIN.copy()  # which takes half as long as a new one
    digest.update(encode_basestring_ascii(image_id).encode())
    digest.update(asked)
    return digest.digest()


def words_key(prompt: str, system: str, model: str, sampling: Sampling, draw: str) -> bytes:
    """32 bytes that name a request without an image. `draw` tells those apart that repeat one on purpose."""
    what = [messages(prompt, None, system), model, asdict(sampling), draw]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).digest()


_BEGIN = hashlib.sha256(b"[")


@functools.lru_cache(maxsize=1024)
def question(preparation: str, prompt: str, model: str, sampling: Sampling) -> bytes:
    """What enters the key besides the image, the same for all images that are asked the same.

    It is the part of a JSON list after its first item.
    """
    what = ["", preparation, messages(prompt, {"type": "image"}), model, asdict(sampling)]
    return json.dumps(what, ensure_ascii=False, sort_keys=True).removeprefix('[""').encode()
