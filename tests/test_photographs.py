"""The README's second example, as a user types it: add, caption, stats and export on real photographs."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from sharecap.scenes.world import pixel_digest

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "photographs"
ANSWERS = EXAMPLE / "answers.jsonl"
ROWS = [json.loads(line) for line in ANSWERS.read_text(encoding="utf-8").splitlines()]


def command(*words: str | Path) -> str:
    """Standard output of `sharecap WORDS`, which must succeed."""
    line = [sys.executable, "-m", "sharecap.cli", *map(str, words)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("example") / "photos"
    line = [sys.executable, str(EXAMPLE / "collect.py"), str(folder)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def teacher() -> Iterator[str]:
    line = [sys.executable, "-m", "sharecap.cli", "simulate-teacher", "--answers", str(ANSWERS)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip().removeprefix("listening on ")
        try:
            yield url
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()


@pytest.fixture(scope="module")
def dataset(photos: Path, teacher: str) -> Path:
    place = photos.with_suffix(".dataset")
    command("add", photos, "--to", place)
    command("caption", place, "--teacher", f"{teacher}#recorded", "--prompts", "sharegpt4v")
    return place


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["file"])
def test_a_recorded_answer_belongs_to_the_installed_photograph(photos: Path, row: dict[str, str]) -> None:
    with Image.open(photos / row["file"]) as photograph:
        assert pixel_digest(photograph) == row["pixels"]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["file"])
def test_a_recorded_answer_is_a_detailed_caption_in_flowing_text(row: dict[str, str]) -> None:
    text = row["answer"]
    assert 80 <= len(text.split()) <= 200
    assert text.count("\n\n") <= 1
    assert not any(line.lstrip().startswith(("-", "*", "1.")) for line in text.splitlines())
    assert text == text.strip()


def test_the_example_has_enough_photographs_of_several_sources() -> None:
    assert len({row["pixels"] for row in ROWS}) == len(ROWS) >= 14
    assert len({row["file"].split("/")[0] for row in ROWS}) >= 5


def test_every_photograph_is_captioned_with_the_prompt_of_its_folder(dataset: Path) -> None:
    from sharecap.captions.layer import layers, read_layer
    from sharecap.images.catalog import Catalog

    images = {image.id: image for image in Catalog.open(dataset)}
    captions = list(read_layer(dataset, layers(dataset)[0]))
    said = {Path(images[c.image_id].path).name: c for c in captions}
    assert len(said) == len(ROWS)
    for row in ROWS:
        source, name = row["file"].split("/")
        assert said[name].text == row["answer"]
        assert said[name].prompt_id.endswith(f"/{source}")
        assert said[name].usage.prompt_tokens > 255


def test_captioning_again_asks_nothing(dataset: Path) -> None:
    # The teacher's address leads nowhere: a request would fail.
    again = command(
        "caption", dataset, "--teacher", "http://127.0.0.1:9/v1#recorded", "--prompts", "sharegpt4v", "--json"
    )
    assert json.loads(again)["requests"] == 0


def test_stats_tell_how_many_captions_and_of_what_length(dataset: Path) -> None:
    assert str(len(ROWS)) in command("stats", dataset)


def test_the_export_holds_every_caption_with_an_image_that_exists(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "captions.json"
    command("export", dataset, "--format", "llava", "--out", out)
    rows = json.loads(out.read_text(encoding="utf-8"))
    assert sorted(row["conversations"][1]["value"] for row in rows) == sorted(r["answer"] for r in ROWS)
    assert all(row["conversations"][0]["value"].count("<image>") == 1 for row in rows)
    assert all((out.parent / row["image"]).is_file() for row in rows)
