"""Pictures as the vision tower wants them. The one way from a file to pixels, for training and generation.

Bit-equal to the model's Hugging Face image processor, but prepared pictures are kept (as bytes), since every
epoch and every question asks for them again. It must never hand out a picture that was not wholly decoded.
"""

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import BaseImageProcessor

from sharecap.images.decode import open_rgb


class Pixels:
    """Decodes, resizes, normalises; keeps up to `cache_bytes` of resized pictures. Threads may share one."""

    def __init__(self, processor: BaseImageProcessor, cache_bytes: int = 1 << 30) -> None:
        self.processor, self.room = processor, cache_bytes
        self.kept: dict[str, NDArray[np.uint8]] = {}
        self.lock = threading.Lock()
        ramp = np.arange(256, dtype=np.uint8).reshape(1, 256, 1).repeat(3, axis=0)  # [3, 256, 1]
        shades = processor(
            ramp, do_resize=False, do_center_crop=False, do_pad=False, input_data_format="channels_first"
        )["pixel_values"][0]
        self.shades = torch.as_tensor(np.asarray(shades, dtype=np.float32)).flatten()  # [3 * 256]
        self.channel = torch.tensor([0, 256, 512], dtype=torch.int32).view(3, 1, 1)  # where each one's begin

    def __call__(self, pictures: Sequence[str | Path | Image.Image]) -> Tensor:
        """[n, 3, height, width] float32; `ImageError` names a file that can't be read."""
        stacked = torch.from_numpy(np.stack([self.resized(picture) for picture in pictures]))
        return self.shades.index_select(0, (stacked.int() + self.channel).flatten()).view(stacked.shape)

    def resized(self, picture: str | Path | Image.Image) -> NDArray[np.uint8]:
        """[3, height, width] bytes, before normalisation."""
        if isinstance(picture, Image.Image):
            return self.prepare(picture.convert("RGB"))
        name = str(picture)
        with self.lock:
            if name in self.kept:
                return self.kept[name]
        made = self.prepare(open_rgb(Path(picture)))
        with self.lock:
            if name not in self.kept and made.nbytes <= self.room:
                self.kept[name] = made
                self.room -= made.nbytes
        return made

    def prepare(self, image: Image.Image) -> NDArray[np.uint8]:
        done = self.processor(image, do_rescale=False, do_normalize=False)["pixel_values"][0]
        made: NDArray[np.uint8] = np.asarray(done)
        assert made.dtype == np.uint8, "the processor's resize must keep bytes"
        return made
