"""A drawn world with captions whose every mistake is known, and the simulator as the judge of them."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sharecap.captions.layer import write_layer
from sharecap.images.add import add
from sharecap.images.catalog import Catalog
from sharecap.quality.cases import Bench
from sharecap.records import Caption
from sharecap.scenes.language import TOPICS, describe
from sharecap.scenes.simulator import Settings, serving
from sharecap.scenes.world import Scene, Truth, WorldSpec, make_world


class World:
    """`scenes` are by image id."""

    def __init__(self, folder: Path, images: int, seed: int = 7) -> None:
        self.folder, self.dataset = folder, folder / "dataset"
        truths = make_world(folder / "world", WorldSpec(seed=seed), range(images), workers=1)
        add([folder / "world"], self.dataset)
        scenes = {str((folder / "world" / one.file).resolve()): one for one in truths}
        self.truths: dict[str, Truth] = {
            image.id: scenes[str(Path(image.path).resolve())] for image in Catalog.open(self.dataset)
        }

    def scene(self, image_id: str) -> Scene:
        return self.truths[image_id].scene

    def caption(self, layer: str, mistakes: float, captioner: str = "scenes") -> None:
        """Seal a layer of captions in which each attribute is told wrong at this rate."""
        rows = [
            Caption(
                image.id,
                layer,
                describe(self.scene(image.id), TOPICS, random.Random(f"{layer}/{n}"), mistakes),
                captioner,
                "test@1/default",
                "stop",
            )
            for n, image in enumerate(Catalog.open(self.dataset))
        ]
        write_layer(self.dataset, layer, rows)

    @contextmanager
    def judge(self, **settings: Any) -> Iterator[str]:
        """The address of a simulated judge."""
        with serving(Settings(truth=(self.folder / "world" / "truth.jsonl",), **settings)) as url:
            yield f"{url}#judge"

    def bench(self, spec: str, **more: Any) -> Bench:
        return Bench(self.dataset, spec, **more)
