"""Qwen3-VL, the second architecture: pictures of any size as patches, positions in three directions.

It goes through the same rows, masks, rules, packs and loop as LLaVA; this file is what differs. Positions and
features are computed by transformers' own class. Videos are no business of ours: what their directory says of
them is copied as it is.
"""

import functools
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import ExifTags, Image
from torch import Tensor
from transformers import AutoTokenizer, ProcessorMixin
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from sharecap.images.decode import ImageError, open_header, read_bytes
from sharecap.model.pixels import Patches

KIND = "qwen3_vl"
IMAGE_PAD = "<|image_pad|>"
LONGEST = 200
"""The bound of Qwen's own preprocessing on a picture's sides."""

OURS = ("config.json", "generation_config.json", "sharecap.json", "README.md")
"""Files of a model's directory that are written anew; all others but weights are copied."""


class PictureProcessor(ProcessorMixin):
    """Qwen's processor without its videos, for which its own class wants torchvision."""

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template)  # type: ignore[no-untyped-call]
        self.image_token = IMAGE_PAD
        self.files: dict[str, bytes] = {}  # of the directory that it was read from

    @classmethod
    def read(cls, directory: Path) -> "PictureProcessor":
        """That of a model's directory; whatever the loaders raise if there is none."""
        tokenizer = AutoTokenizer.from_pretrained(str(directory))
        images = Qwen2VLImageProcessorPil.from_pretrained(str(directory))
        template = tokenizer.chat_template
        older = directory / "chat_template.json"
        if template is None and older.exists():
            template = json.loads(older.read_text(encoding="utf-8"))["chat_template"]
        made = cls(images, tokenizer, template)
        made.files = {
            path.name: path.read_bytes()
            for path in sorted(directory.iterdir())
            if path.is_file() and path.name not in OURS and not holds_weights(path)
        }
        return made

    def save(self, directory: Path) -> None:
        """Every file as it was read: training changes none of them."""
        for name, content in self.files.items():
            (directory / name).write_bytes(content)


def holds_weights(path: Path) -> bool:
    return path.suffix in (".safetensors", ".bin", ".pt", ".pth") or path.name.endswith(".index.json")


@dataclass(frozen=True)
class Places:
    """Places that a picture takes in the language model, which follow from its size."""

    processor: Qwen2VLImageProcessorPil

    def __call__(self, picture: str | Path | Image.Image) -> int:
        """`ImageError` names a file whose header can't be read, or a picture that is a mere line."""
        width, height = picture.size if isinstance(picture, Image.Image) else size_of(str(picture))
        if max(width, height) > LONGEST * min(width, height):
            what = f"{width} x {height} pixels, more than {LONGEST} times as long as wide"
            where = "a picture in memory" if isinstance(picture, Image.Image) else picture
            raise ImageError("malformed", what, where, "leave it out")
        return self.of_size(width, height)

    def of_size(self, width: int, height: int) -> int:
        """Of a picture of so many pixels."""
        patches = self.processor.get_number_of_image_patches(height, width)
        return int(patches // self.processor.merge_size**2)


PUBLISHED = Qwen2VLImageProcessorPil(
    patch_size=16, size={"shortest_edge": 256 * 16**2, "longest_edge": 65_536 * 16**2}
)
"""How the released Qwen3-VLs resize pictures: to 256 patches at least."""


@functools.lru_cache(maxsize=1 << 20)
def size_of(path: str) -> tuple[int, int]:
    """Width and height of a picture once it stands upright; only its header is decoded."""
    image = open_header(read_bytes(Path(path)), path)
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    return (image.height, image.width) if turned else (image.width, image.height)


def positions(model: Any, ids: Tensor, places: Tensor, grid: Tensor) -> Tensor:
    """Positions [3, 1, T] in time, height and width, which start again with each document.

    `ids` [T]; `places` [T], the place of each token in its document; `grid` [images, 3] in their order.
    """
    image_id, merge = model.config.image_token_id, model.config.vision_config.spatial_merge_size
    tokens, sizes = ids.cpu(), grid.cpu()
    counts = (sizes.prod(-1) // merge**2).tolist()
    starts = (places == 0).nonzero()[:, 0].tolist()
    found, first = [], 0
    for begin, end in itertools.pairwise([*starts, len(tokens)]):
        words = tokens[None, begin:end]
        image = words == image_id
        left, last = int(image.sum()), first
        while left > 0 and last < len(counts):
            left -= counts[last]
            last += 1
        assert left == 0, "an image's places are never split between documents"
        found.append(model.model.get_rope_index(words, image.int(), image_grid_thw=sizes[first:last])[0])
        first = last
    return torch.cat(found, dim=-1).to(ids.device)


def grey(config: Any) -> Patches:
    """The smallest grey picture; it takes one place."""
    vision = config.vision_config
    merge = vision.spatial_merge_size
    width = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    return Patches(torch.zeros(merge**2, width), torch.tensor([[1, merge, merge]]))


def summed_features(model: Any, patches: Patches) -> Tensor:
    """The sum of all features of one picture."""
    found = model.get_image_features(patches.values, patches.grid)
    total: Tensor = found.pooler_output[0].sum()
    for features in found.deepstack_features:
        total = total + features[0].sum()
    return total


def prompt(
    model: Any, ids: Tensor, mask: Tensor, patches: Patches, chosen: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
    """A batch of prompts as the language model takes them: vectors, mask, positions, and what else.

    `ids` [B, P], padded where `mask` is 0; `chosen` are the pictures in the order of their places. Returns
    vectors [B, P, C], the mask, positions [3, B, P], and what the first blocks add to the pictures' places.
    """
    vectors = model.get_input_embeddings()(ids)
    image = ids == model.config.image_token_id
    found = model.get_image_features(patches.values, patches.grid)
    vectors[image] = torch.cat([found.pooler_output[i] for i in chosen]).to(vectors.dtype)
    deep = [torch.cat([features[i] for i in chosen]) for features in found.deepstack_features]
    grid = patches.grid[list(chosen)]
    places, _ = model.model.get_rope_index(ids, image.int(), image_grid_thw=grid, attention_mask=mask)
    return vectors, mask, places, {"visual_pos_masks": image, "deepstack_visual_embeds": deep}
