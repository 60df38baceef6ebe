"""The recorded example of docs/caption-your-photos.md, run as it stands there, on real photographs."""

import json
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from sharecap.captions.layer import only_layer, read_layer
from sharecap.images.catalog import Catalog
from sharecap.scenes.world import pixel_digest

ROOT = Path(__file__).resolve().parents[1]
ANSWERS = ROOT / "examples" / "photographs" / "answers.jsonl"
PAGE = (ROOT / "docs" / "caption-your-photos.md").read_text(encoding="utf-8")
ROWS = [json.loads(line) for line in ANSWERS.read_text(encoding="utf-8").splitlines()]


@dataclass(frozen=True)
class Example:
    """The folder in which the page's commands were run, and what each of them printed."""

    folder: Path
    printed: dict[str, str]  # "sharecap stats" -> standard output

    @property
    def dataset(self) -> Path:
        return self.folder / "photos.dataset"


def words_of(line: str) -> list[str]:
    """The words of a command, with the interpreter and the sharecap that this test runs on."""
    words = shlex.split(line)
    programs = {"python": [sys.executable], "sharecap": [sys.executable, "-m", "sharecap.cli"]}
    return [*programs[words[0]], *words[1:]]


def run(line: str, folder: Path) -> str:
    """Standard output of a command, which must succeed."""
    done = subprocess.run(words_of(line), cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{line}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    """Run the page's commands line by line; the one that ends in `&` until all others are done."""
    folder = tmp_path_factory.mktemp("example")
    (folder / "examples").symlink_to(ROOT / "examples")
    block = re.search(r"<!-- tested: recorded example -->\n```sh\n(.*?)```", PAGE, re.DOTALL)
    assert block
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    printed: dict[str, str] = {}
    servers: list[subprocess.Popen[str]] = []
    try:
        for line in block.group(1).replace("8123", str(port)).splitlines():
            if line.endswith("&"):
                servers.append(
                    subprocess.Popen(words_of(line[:-1]), cwd=folder, stdout=subprocess.PIPE, text=True)
                )
                stdout = servers[-1].stdout
                assert stdout is not None
                assert stdout.readline() == f"listening on http://127.0.0.1:{port}/v1\n"
            else:
                printed[" ".join(line.split()[:2])] = run(line, folder)
        yield Example(folder, printed)
    finally:
        for server in servers:
            server.send_signal(signal.SIGTERM)
            server.communicate()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["file"])
def test_a_recorded_answer_belongs_to_the_installed_photograph(example: Example, row: dict[str, str]) -> None:
    with Image.open(example.folder / "photos" / row["file"]) as photograph:
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


def test_every_photograph_is_captioned_with_the_prompt_of_its_folder(example: Example) -> None:
    images = {image.id: image for image in Catalog.open(example.dataset)}
    captions = read_layer(example.dataset, only_layer(example.dataset))
    said = {Path(images[caption.image_id].path).name: caption for caption in captions}
    assert len(said) == len(ROWS)
    for row in ROWS:
        source, name = row["file"].split("/")
        assert said[name].text == row["answer"]
        assert said[name].prompt_id.endswith(f"/{source}")
        assert said[name].usage.prompt_tokens > 255


def test_captioning_again_asks_nothing(example: Example) -> None:
    # The address leads nowhere: a request would fail.
    line = 'sharecap caption photos.dataset --teacher "http://127.0.0.1:9/v1#recorded" --json'
    assert json.loads(run(line, example.folder))["requests"] == 0


def test_stats_say_what_the_page_says(example: Example) -> None:
    counted = json.loads(run("sharecap stats photos.dataset --json", example.folder))
    assert (counted["captions"], counted["failures"]) == (len(ROWS), {})
    assert 80 <= counted["words_min"] <= counted["words_max"] <= 200
    assert f"{counted['words_mean']:.0f} words each on average" in PAGE
    assert "20 of 20 images" in example.printed["sharecap stats"]


def test_the_export_holds_every_caption_with_an_image_that_exists(example: Example) -> None:
    rows = json.loads((example.folder / "photos.json").read_text(encoding="utf-8"))
    assert sorted(row["conversations"][1]["value"] for row in rows) == sorted(r["answer"] for r in ROWS)
    assert all(row["conversations"][0]["value"].count("<image>") == 1 for row in rows)
    assert all((example.folder / row["image"]).is_file() for row in rows)


def test_the_pages_python_writes_each_caption_beside_its_picture(
    example: Example, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert block
    monkeypatch.chdir(example.folder)
    exec(block.group(1), {})
    for row in ROWS:
        beside = (example.folder / "photos" / row["file"]).with_suffix(".caption.txt")
        assert beside.read_text(encoding="utf-8") == row["answer"]


def test_the_pages_prompt_pack_is_one(tmp_path: Path) -> None:
    from sharecap.captions.prompts import load_pack

    block = re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert block
    (tmp_path / "family.toml").write_text(block.group(1), encoding="utf-8")
    assert set(load_pack(tmp_path / "family.toml").sources) == {"letters"}
