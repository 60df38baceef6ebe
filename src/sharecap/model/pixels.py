"""Pictures as the vision tower wants them. The one way from a file to pixels, for training and generation.

Bit-equal to the model's Hugging Face image processor, but prepared pictures are kept (as bytes), since every
epoch and every question asks for them again. It must never hand out a picture that was not wholly decoded.

Shape letters: N pictures, H and W their pixels; for towers that take patches, Y and X patches of P pixels.
"""

import copy
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import BaseImageProcessor

from sharecap.errors import UsageError
from sharecap.images.decode import open_rgb


@dataclass(frozen=True)
class Patches:
    """Pictures of any size, as Qwen's towers take them."""

    values: Tensor  # [patches of all pictures, values of one]
    grid: Tensor  # [N, 3] patches in time (1), height and width

    def __len__(self) -> int:
        return len(self.grid)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "Patches":
        """The same elsewhere; `dtype` is that of the values."""
        return Patches(self.values.to(device, dtype), self.grid.to(device))


class Pixels:
    """Decodes, resizes, normalises; keeps up to `cache_bytes` of resized pictures. Threads may share one.

    `forgets`: when these are full the oldest go, as suits who asks for pictures in an order once. Else the
    first ones stay, as suits who comes again and again.
    """

    def __init__(
        self, processor: BaseImageProcessor, cache_bytes: int = 1 << 30, *, forgets: bool = False
    ) -> None:
        self.processor, self.room, self.forgets = processor, cache_bytes, forgets
        self.kept: dict[str, NDArray[np.uint8]] = {}
        self.lock = threading.Lock()
        self.patched = "merge_size" in processor.to_dict()
        self.shades = patch_shades(processor) if self.patched else shades(processor)  # [3 * 256]
        self.channel = torch.tensor([0, 256, 512], dtype=torch.int32).view(3, 1, 1)  # where each one's begin

    def __call__(self, pictures: Sequence[str | Path | Image.Image]) -> Any:
        """A tensor [N, 3, H, W], float32, or `Patches`; `ImageError` names a file that can't be read."""
        made = [self.resized(picture) for picture in pictures]
        if not self.patched:
            return self.coloured(np.stack(made))
        time: Any = self.processor.temporal_patch_size  # type: ignore[attr-defined]
        values = [
            self.coloured(x)
            .unsqueeze(3)
            .expand(-1, -1, -1, time, -1, -1)
            .reshape(x.shape[0] * x.shape[1], -1)
            for x in made
        ]
        return Patches(torch.cat(values), torch.tensor([[1, *x.shape[:2]] for x in made]))

    def coloured(self, prepared: NDArray[np.uint8]) -> Tensor:
        """Bytes [..., 3, height, width] as the tower's numbers."""
        levels = torch.from_numpy(prepared)
        return self.shades.index_select(0, (levels.int() + self.channel).flatten()).view(levels.shape)

    def resized(self, picture: str | Path | Image.Image) -> NDArray[np.uint8]:
        """[3, H, W] bytes, before normalisation; as patches [Y, X, 3, P, P]."""
        if isinstance(picture, Image.Image):
            return self.prepare(picture.convert("RGB"))
        name = str(picture)
        with self.lock:
            if name in self.kept:
                return self.kept[name]
        made = self.prepare(open_rgb(Path(picture)))
        with self.lock:
            while self.forgets and self.kept and made.nbytes > self.room:
                self.room += self.kept.pop(next(iter(self.kept))).nbytes
            if name not in self.kept and made.nbytes <= self.room:
                self.kept[name] = made
                self.room -= made.nbytes
        return made

    def prepare(self, image: Image.Image) -> NDArray[np.uint8]:
        done = self.processor(image, do_rescale=False, do_normalize=False)
        if self.patched:
            return patches_of(self.processor, done)
        made: NDArray[np.uint8] = np.asarray(done["pixel_values"][0])
        assert made.dtype == np.uint8, "the processor's resize must keep bytes"
        return made


def framed(processor: BaseImageProcessor, *, pads: bool) -> BaseImageProcessor:
    """The processor that pads pictures to a square, or that cuts out their middle one.

    `UsageError` for a cut where pictures are taken whole, in any shape.
    """
    if "merge_size" in processor.to_dict():
        if not pads:
            todo = "train it without centre_crop, evaluate it with --protocol consistent"
            raise UsageError("this model takes pictures whole and can't have them cut", todo=todo)
        return processor
    made: Any = copy.copy(processor)
    made.do_pad = pads
    return made  # type: ignore[no-any-return]


def shades(processor: Any) -> Tensor:
    """What the processor makes of each byte of each channel, [3 * 256]."""
    ramp = np.arange(256, dtype=np.uint8).reshape(1, 256, 1).repeat(3, axis=0)  # [3, 256, 1]
    found = processor(
        ramp, do_resize=False, do_center_crop=False, do_pad=False, input_data_format="channels_first"
    )["pixel_values"][0]
    return torch.as_tensor(np.asarray(found, dtype=np.float32)).flatten()


def patch_shades(processor: Any) -> Tensor:
    """The same of a processor that cuts pictures into patches: each byte is looked up where it went."""
    side = processor.patch_size * processor.merge_size
    wide = side * -(-256 // side**2)  # pixels enough for every byte
    ramp = np.resize(np.arange(256, dtype=np.uint8), (1, side, wide)).repeat(3, axis=0)
    options = {"do_resize": False, "input_data_format": "channels_first"}
    levels = patches_of(processor, processor(ramp, do_rescale=False, do_normalize=False, **options))
    found = processor(ramp, **options)["pixel_values"].reshape(len(levels) * levels.shape[1], 3, -1)
    values = found[:, :, : levels[0, 0, 0].size]  # the first of the moments, which are all alike
    made = torch.empty(3, 256)
    for channel in range(3):
        places = levels[:, :, channel].flatten()
        made[channel, torch.from_numpy(places).long()] = torch.from_numpy(values[:, channel].flatten())
    return made.flatten()


def patches_of(processor: Any, done: Any) -> NDArray[np.uint8]:
    """A processor's patches [Y, X, 3, P, P] as bytes, of one moment: it repeats them."""
    _, height, width = (int(n) for n in done["image_grid_thw"][0])
    side, time = processor.patch_size, processor.temporal_patch_size
    values = np.asarray(done["pixel_values"]).reshape(height, width, 3, time, side, side)[:, :, :, 0]
    made = values.astype(np.uint8)
    assert (made == values).all(), "the processor's resize must keep bytes"
    return made
