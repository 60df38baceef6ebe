"""The drawn world: the same everywhere, its truth beside the pictures and never in them."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sharecap.scenes.drawing import INK, PAPER, draw
from sharecap.scenes.world import (
    PLACES,
    SOURCES,
    Scene,
    Thing,
    WorldSpec,
    imagine,
    make_world,
    names_of,
    pixel_digest,
    read_truth,
    words_of,
)

SPEC = WorldSpec(seed=3)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("world")
    make_world(directory, SPEC, range(40, 80), workers=2)
    return directory


def test_a_world_is_the_same_to_the_byte_in_another_process_with_other_workers(
    world: Path, tmp_path: Path
) -> None:
    script = (
        "import sys\nfrom pathlib import Path\nfrom sharecap.scenes.world import WorldSpec, make_world\n"
        "if __name__ == '__main__':\n"
        "    make_world(Path(sys.argv[1]), WorldSpec(seed=3), range(40, 80), workers=1)"
    )
    environment = os.environ | {"PYTHONHASHSEED": "77"}
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], env=environment, check=True)
    files = sorted(p.relative_to(world) for p in world.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file())
    assert len(files) > 40
    assert all((world / name).read_bytes() == (tmp_path / name).read_bytes() for name in files)


def test_a_picture_depends_on_seed_and_index_alone(world: Path, tmp_path: Path) -> None:
    make_world(tmp_path, SPEC, range(50, 52), workers=1)
    whole = {truth.file: truth for truth in read_truth(world)}
    assert all(whole[truth.file] == truth for truth in read_truth(tmp_path))
    assert imagine(SPEC, 50) != imagine(WorldSpec(seed=4), 50)


def test_every_picture_has_its_truth_beside_it_by_the_digest_of_its_pixels(world: Path) -> None:
    truths = list(read_truth(world))
    assert len(truths) == 40
    for truth in truths:
        with Image.open(world / truth.file) as picture:
            assert pixel_digest(picture) == truth.pixels
            assert picture.size == (SPEC.side, SPEC.side) >= (96, 96)
        assert truth.file.split("/")[1] == truth.source == truth.scene.source


def test_the_truth_is_not_in_the_picture_file(world: Path) -> None:
    for truth in read_truth(world):
        with Image.open(world / truth.file) as picture:
            assert picture.info == {}
            plain = Image.frombytes("RGB", picture.size, picture.convert("RGB").tobytes())
        again = world.with_name("again.png")
        plain.save(again, compress_level=1)
        assert again.read_bytes() == (world / truth.file).read_bytes()  # nothing but pixels


def test_noisy_alt_text_lies_beside_pictures_from_the_web_and_nowhere_else(world: Path) -> None:
    truths = list(read_truth(world))
    beside = {p.relative_to(world).as_posix() for p in world.rglob("images/**/*.txt")}
    assert beside == {truth.file.replace(".png", ".txt") for truth in truths if truth.source == "web"}
    assert all(bool(truth.alt_text) == (truth.source == "web") for truth in truths)


def test_all_six_sources_come_with_what_is_theirs_alone() -> None:
    scenes = [imagine(SPEC, index) for index in range(300)]
    assert {scene.source for scene in scenes} == set(SOURCES)
    for scene in scenes:
        assert bool(scene.word) == (scene.source == "signs")
        assert bool(scene.name) == bool(scene.renown) == (scene.source == "emblems")
        assert bool(scene.style) == (scene.source == "paintings")
    numbers = {source: [len(s.things) for s in scenes if s.source == source] for source in SOURCES}
    assert min(numbers["dense"]) >= max(numbers["signs"] + numbers["emblems"])


@given(seed=st.integers(0, 10**6), index=st.integers(0, 10**6))
def test_nothing_lies_on_anything_else_and_no_shape_comes_twice(seed: int, index: int) -> None:
    scene = imagine(WorldSpec(seed=seed), index)
    cells = [(thing.row, thing.col) for thing in scene.things]
    if scene.word:
        cells += [(scene.word_row, col) for col in range(3)]
    if scene.name:
        cells.append((scene.emblem_row, scene.emblem_col))
    assert len(cells) == len(set(cells))
    assert len({thing.shape for thing in scene.things}) == len(scene.things) > 1
    assert list(scene.things) == sorted(scene.things, key=lambda thing: (thing.row, thing.col))
    assert Scene.from_json(json.loads(json.dumps(asdict(scene)))) == scene


def test_edges_are_smooth() -> None:
    thing = Thing("circle", "red", "large", "plain", 1, 1)
    colours = {
        colour: n for n, colour in draw(Scene("everyday", "grey", (thing,)), SPEC, 0).getcolors() or []
    }
    flat = {INK["red"], PAPER["grey"]}
    between = {colour: n for colour, n in colours.items() if colour not in flat}
    assert flat <= colours.keys()
    assert len(between) >= 5
    assert sum(between.values()) < 0.1 * SPEC.side**2
    red, grey = INK["red"], PAPER["grey"]
    assert all(min(r, g) <= c <= max(r, g) for rgb in between for c, r, g in zip(rgb, red, grey, strict=True))


@pytest.mark.parametrize("side", [96, 144, 224])
def test_pictures_are_as_large_as_asked_for(side: int) -> None:
    spec = WorldSpec(side=side)
    assert draw(imagine(spec, 1), spec, 1).size == (side, side)


@pytest.mark.parametrize("index", range(6))
def test_what_differs_is_seen_to_differ(index: int) -> None:
    scene = imagine(SPEC, index)
    others = [imagine(SPEC, other) for other in range(10, 20)]
    assert len({pixel_digest(draw(s, SPEC, 0)) for s in (scene, *others)}) == 1 + len(others)


def test_the_digest_of_pixels_survives_another_format_and_a_turned_camera(
    world: Path, tmp_path: Path
) -> None:
    truth = next(read_truth(world))
    with Image.open(world / truth.file) as picture:
        picture.save(tmp_path / "a.bmp")
        turned = picture.transpose(Image.Transpose.ROTATE_90)
        exif = Image.Exif()
        exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
        turned.save(tmp_path / "b.png", exif=exif)
        turned.save(tmp_path / "c.png")
    digests = []
    for name in ("a.bmp", "b.png", "c.png"):
        with Image.open(tmp_path / name) as picture:
            digests.append(pixel_digest(picture))
    assert digests[:2] == [truth.pixels] * 2
    assert digests[2] != truth.pixels


def test_larger_vocabularies_have_no_word_twice() -> None:
    spec = WorldSpec(words=500, names=500)
    for words in (words_of(spec), names_of(spec)):
        assert len(set(words)) == len(words) == 500
        assert all(word.isalpha() for word in words)
    assert words_of(spec)[:12] == words_of(SPEC)
    assert len({place for row in PLACES for place in row}) == 9
