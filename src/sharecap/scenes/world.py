"""The embedded world: scenes drawn from a seed, in six sources that mirror the paper's (section 3.1, Fig. 3).

A scene is its own truth. The truth lies in `truth.jsonl` beside the pictures and never in the picture itself;
a picture is recognised by the digest of its pixels. Scene `index` of a world depends on (seed, index) alone.
"""

import hashlib
import json
import multiprocessing
import os
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from PIL import Image as Pictures
from PIL import ImageOps

SOURCES = ("everyday", "web", "dense", "signs", "emblems", "paintings")
SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond", "heart", "ring")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "white", "black")
SIZES = ("small", "large")
TEXTURES = ("plain", "striped", "dotted")
BACKGROUNDS = ("grey", "cream", "mint", "slate")
STYLES = ("mosaic", "watercolour", "woodcut", "pointillist")
PLACES = (
    ("top left", "top centre", "top right"),
    ("middle left", "middle centre", "middle right"),
    ("bottom left", "bottom centre", "bottom right"),
)
ROWS = ("top", "middle", "bottom")
WORDS = ("open", "stop", "exit", "cafe", "bank", "taxi", "hotel", "music", "bread", "sale", "park", "zoo")
NAMES = (
    *("Velmora", "Ostrand", "Quillon", "Tarvik", "Belusca", "Nimrath"),
    *("Corvane", "Jaspero", "Ludmark", "Zephira", "Halden", "Mirvale"),
)
RENOWN = (
    *("lighthouse", "bridge", "harbour", "market", "tower", "garden"),
    *("library", "fountain", "castle", "theatre", "windmill", "vineyard"),
)


@dataclass(frozen=True)
class WorldSpec:
    """Which world to draw."""

    seed: int = 0  # everything drawn depends on it
    side: int = 96  # pixels, at least 96
    words: int = 12  # words that signs can show
    names: int = 12  # emblems that have a name and a fact
    mix: tuple[int, ...] = (22, 16, 14, 16, 16, 16)  # share of each source, in the order of SOURCES


@dataclass(frozen=True)
class Thing:
    """One object, in one cell of the 3 x 3 grid."""

    shape: str
    colour: str
    size: str
    texture: str
    row: int  # 0 top .. 2 bottom
    col: int  # 0 left .. 2 right

    @property
    def place(self) -> str:
        """The cell in words, e.g. "top left"."""
        return PLACES[self.row][self.col]


@dataclass(frozen=True)
class Scene:
    """The whole truth of one picture."""

    source: str
    background: str
    things: tuple[Thing, ...]  # in reading order
    word: str = ""  # readable word on the sign (source "signs")
    word_row: int = 0  # row that the sign fills
    name: str = ""  # name of the emblem (source "emblems")
    renown: str = ""  # what that name is known for
    emblem_row: int = 0
    emblem_col: int = 0
    style: str = ""  # rendering style (source "paintings")

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """The scene of a line of `truth.jsonl`."""
        things = tuple(Thing(**thing) for thing in fields["things"])
        return cls(**{**fields, "things": things})


@dataclass(frozen=True)
class Truth:
    """One line of `truth.jsonl`."""

    file: str  # picture, relative to the world's directory
    pixels: str  # pixel_digest of the picture
    source: str
    scene: Scene
    short: str  # what a short captioner gives: the main thing only
    alt_text: str  # noisy text from the web


def pixel_digest(picture: Pictures.Image) -> str:
    """sha256 of a picture's size and RGB bytes, after EXIF orientation: survives a change of file format."""
    rgb = ImageOps.exif_transpose(picture).convert("RGB")
    return hashlib.sha256(f"{rgb.width}x{rgb.height}:".encode() + rgb.tobytes()).hexdigest()


def invented(index: int) -> str:
    """Word number `index` of an endless list, for worlds that need more words than the lists above."""
    consonants, vowels = "bdfgklmnprstvz", "aeiou"
    word = ""
    for _ in range(2):
        index, c = divmod(index, len(consonants))
        index, v = divmod(index, len(vowels))
        word += consonants[c] + vowels[v]
    return word + (invented(index - 1) if index else "")


def words_of(spec: WorldSpec) -> tuple[str, ...]:
    """The words that this world's signs show."""
    return (*WORDS, *(invented(i) for i in range(spec.words - len(WORDS))))[: spec.words]


def names_of(spec: WorldSpec) -> tuple[str, ...]:
    """The names that this world's emblems have."""
    return (*NAMES, *(invented(i).capitalize() + "ia" for i in range(spec.names - len(NAMES))))[: spec.names]


def imagine(spec: WorldSpec, index: int) -> Scene:
    """Scene `index` of the world."""
    rng = random.Random(f"scene/{spec.seed}/{index}")
    source = rng.choices(SOURCES, spec.mix)[0]
    background = rng.choice(BACKGROUNDS)
    cells = [(row, col) for row in range(3) for col in range(3)]
    extra: dict[str, Any] = {}
    if source == "signs":
        extra = {"word": rng.choice(words_of(spec)), "word_row": rng.randrange(3)}
        cells = [cell for cell in cells if cell[0] != extra["word_row"]]
    elif source == "emblems":
        names = names_of(spec)
        k = rng.randrange(len(names))
        row, col = rng.choice(cells)
        renown = RENOWN[k % len(RENOWN)]
        extra = {"name": names[k], "renown": renown, "emblem_row": row, "emblem_col": col}
        cells.remove((row, col))
    elif source == "paintings":
        extra = {"style": rng.choice(STYLES)}
    low, high = {"dense": (5, 7), "signs": (2, 3), "emblems": (2, 3)}.get(source, (3, 5))
    # Shapes within a scene differ, so that "the star" names one thing.
    number = rng.randint(low, high)
    shapes = rng.sample(SHAPES, number)
    # A style leaves nothing of small things to recognise.
    sizes = SIZES[1:] if source == "paintings" else SIZES
    things = [
        Thing(shape, rng.choice(COLOURS), rng.choice(sizes), rng.choice(TEXTURES), row, col)
        for shape, (row, col) in zip(shapes, rng.sample(cells, number), strict=True)
    ]
    things.sort(key=lambda thing: (thing.row, thing.col))
    return Scene(source, background, tuple(things), **extra)


def make_world(directory: Path, spec: WorldSpec, indices: range, workers: int = 2) -> list[Truth]:
    """Draw the scenes `indices` into `directory/images/SOURCE/NNNNNN.png` and write `directory/truth.jsonl`.

    The noisy alt-text goes beside each picture of the source "web", as image downloaders leave it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for source in SOURCES:
        (directory / "images" / source).mkdir(parents=True, exist_ok=True)
    size = max(1, len(indices) // (8 * workers))
    chunks = [indices[at : at + size] for at in range(0, len(indices), size)]
    # Spawned: a Ctrl-C in the middle of a fork can leave a lock of the logging module held for good.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_end_with, initargs=(os.getpid(),)) as pool:
        parts = pool.map(_draw_all, [directory] * len(chunks), [spec] * len(chunks), chunks)
        truths = [truth for part in parts for truth in part]
    with open(directory / "truth.jsonl", "w", encoding="utf-8") as f:
        f.writelines(json.dumps(asdict(truth)) + "\n" for truth in truths)
    return truths


def read_truth(directory: Path) -> Iterator[Truth]:
    """The truths of a world's pictures, in order of index."""
    with open(directory / "truth.jsonl", encoding="utf-8") as f:
        for line in f:
            fields = json.loads(line)
            yield Truth(**{**fields, "scene": Scene.from_json(fields["scene"])})


def _end_with(parent: int) -> None:
    """Let this worker end when its parent does, however that ends: a pool's workers would wait for ever."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _draw_all(directory: Path, spec: WorldSpec, indices: range) -> list[Truth]:
    from sharecap.scenes.drawing import draw
    from sharecap.scenes.language import alt_text, short_caption

    truths = []
    for index in indices:
        scene = imagine(spec, index)
        picture = draw(scene, spec, index)
        file = f"images/{scene.source}/{index:06d}.png"
        picture.save(directory / file, compress_level=1)
        rng = random.Random(f"words/{spec.seed}/{index}")
        alt = alt_text(scene, rng) if scene.source == "web" else ""
        if alt:
            (directory / file).with_suffix(".txt").write_text(alt, encoding="utf-8")
        truths.append(Truth(file, pixel_digest(picture), scene.source, scene, short_caption(scene, rng), alt))
    return truths
