"""The nouns that every room speaks: Image, Caption, Turn, Conversation. Plain frozen data, no behaviour."""

from dataclasses import dataclass
from typing import Literal

IMAGE_TOKEN = "<image>"
"""Stands in a turn's text where an image belongs (the LLaVA files' own convention)."""


@dataclass(frozen=True, slots=True)
class Image:
    """One image of a catalog. The pixels stay where they lie; this says where, and what they are."""

    id: str  # sha256 of the image's bytes, 64 hex digits
    source: str  # name that routes the prompt, e.g. "coco"
    path: str  # absolute path of the file (or of the tar or Parquet file that holds it)
    width: int  # pixels, after EXIF orientation
    height: int  # pixels, after EXIF orientation
    format: str  # "JPEG", "PNG", ... as the decoder names it
    bytes: int  # size of the image's own bytes
    phash: str  # 64-bit perceptual hash, 16 hex digits
    alt_text: str = ""  # the caption the image came with, if any
    licence: str = ""  # as stated by the source; "" is unknown
    member: str = ""  # name of the tar member, or "column[row]" of a Parquet file; "" for a file of its own
    offset: int = 0  # byte offset of a tar member's bytes inside `path`; 0 for everything else
    url: str = ""  # where the image was downloaded from, if it was


NO_IMAGE = Image(id="", source="", path="", width=0, height=0, format="", bytes=0, phash="")
"""Stands in the image's place where only words are asked about."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What one answer used, in the provider's own count of tokens."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Caption:
    """One captioner's words about one image, with what they cost and how they ended."""

    image_id: str
    layer: str  # name of the layer it belongs to
    text: str
    captioner: str  # model name as sent to the server, or the checkpoint's directory name
    prompt_id: str  # "pack@version/source"
    finish_reason: str  # "stop", "length", ... as the captioner reported
    usage: Usage = Usage()
    cost_usd: float | None = None  # None: no price is known
    flags: tuple[str, ...] = ()
    origin: str = ""  # the layer that the words were taken from, where it was another one


@dataclass(frozen=True, slots=True)
class Turn:
    """One utterance. `text` of a user turn may hold `<image>` once per image.

    A first turn of role "system" is the row's own system prompt.
    """

    role: Literal["system", "user", "assistant"]
    text: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """The one row type from instruction data to the label mask. `images` are paths, in order of `<image>`."""

    id: str
    images: tuple[str, ...]
    turns: tuple[Turn, ...]
