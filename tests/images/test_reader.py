"""The reader of words: reads what is drawn, takes pictures of any shape, asks the network for nothing."""

import subprocess
import sys

import pytest
from PIL import Image, ImageDraw, ImageFont

from sharecap.errors import UsageError
from sharecap.images.decode import ImageError
from sharecap.images.reader import Reader


def drawn(words: str, size: tuple[int, int] = (480, 160), letters: int = 32) -> Image.Image:
    """A white picture with black words on it."""
    picture = Image.new("RGB", size, "white")
    ImageDraw.Draw(picture).text((16, 16), words, fill="black", font=ImageFont.load_default(letters))
    return picture


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader()


def test_lines_are_read_from_the_top_down(reader: Reader) -> None:
    assert reader.read(drawn("Main Street 12\nNo parking"), "x") == ("Main Street 12", "No parking")


def test_a_picture_without_words_has_none(reader: Reader) -> None:
    assert reader.read(Image.new("RGB", (200, 200), "navy"), "x") == ()


def test_a_large_picture_is_read_as_well(reader: Reader) -> None:
    assert reader.read(drawn("LARGE", (6_000, 3_000), 600), "x") == ("LARGE",)


@pytest.mark.parametrize("size", [(1, 1), (1, 5_000), (5_000, 1), (3_000, 20), (20, 30_000)])
def test_no_shape_is_too_odd(reader: Reader, size: tuple[int, int]) -> None:
    assert reader.read(Image.new("RGB", size, "grey"), "x") == ()


def test_what_the_engine_cannot_take_is_a_named_failure(reader: Reader) -> None:
    with pytest.raises(ImageError, match=r"the reader of words gave up \(.+\): here") as caught:
        reader.read(Image.new("I", (100, 100)), "here")
    assert caught.value.reason == "unread"


ALONE = """
import sys
def watch(event, details):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        raise SystemExit(f"it went out: {event} {details}")
sys.addaudithook(watch)
from PIL import Image
from sharecap.images.reader import Reader
print(Reader().read(Image.open(sys.argv[1]), "x"))
"""


def test_it_asks_the_network_for_nothing(tmp_path) -> None:
    drawn("OPEN").save(tmp_path / "open.png")
    command = [sys.executable, "-c", ALONE, str(tmp_path / "open.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "('OPEN',)\n"), done.stderr


@pytest.mark.parametrize("package", ["rapidocr", "onnxruntime"])
def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not there
    with pytest.raises(UsageError, match=r"no reader of words in pictures .*pip install 'sharecap\[ocr\]'"):
        Reader()
