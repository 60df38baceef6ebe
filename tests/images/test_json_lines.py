"""JSON Lines with bad lines: each is a named failure with its number, and the rest of the list goes on."""

import json
from pathlib import Path

import pytest

from sharecap.captions.given import keep_given
from sharecap.errors import SharecapError
from sharecap.images import stream
from sharecap.images.add import add
from sharecap.images.candidate import Options
from sharecap.images.failures import failures_of
from sharecap.images.stream import NONSENSE, BadLine, elements

from .test_decode import encoded, picture


def row(number: int) -> bytes:
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": f"Boat {number}."}]
    return json.dumps({"image": f"{number}.png", "conversations": turns}).encode()


def test_a_bad_line_is_counted_and_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(encoded("PNG", picture(seed=number)))
    lines = [
        b"\xef\xbb\xbf" + row(0),
        b'{"image": "1.png"',
        b"",
        b"\xff\xfe",
        row(1),
        row(2)[:-20],
        b"[" * 10_000,
        row(2),
    ]
    (tmp_path / "x.jsonl").write_bytes(b"\r\n".join(lines))
    report = add([tmp_path / "x.jsonl"], tmp_path / "d")
    assert (report.added, report.failed) == (3, {"malformed": 4})
    found = {failure.path.partition("::")[2]: failure.what for failure in failures_of(tmp_path / "d")}
    assert list(found) == ["line 2", "line 4", "line 6", "line 7"]
    assert found["line 2"].startswith("not JSON (Expecting ',' delimiter, column ")
    assert found["line 4"] == "not JSON (not UTF-8)"
    given = keep_given(tmp_path / "d", tmp_path / "x.jsonl", "x", Options())
    assert (given.captions, given.others) == (3, 4)


def test_bad_lines_before_the_first_good_one_are_not_lost(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(b"# made by hand\n# twice\n" + row(1))
    assert [type(found) for _, found in elements(tmp_path / "x.jsonl")] == [BadLine, BadLine, dict]


@pytest.mark.parametrize(
    "content",
    [
        b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 900,
        b"a page\nof words\n",
        b"{\n",
        b"x\n" * NONSENSE + row(1),
    ],
)
def test_a_file_that_is_no_json_lines_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.jsonl").write_bytes(content)
    with pytest.raises(
        SharecapError, match=r"not whole JSON \(no line is; line 1: not JSON .*x\.jsonl"
    ) as caught:
        add([tmp_path / "x.jsonl"], tmp_path / "d")
    assert "\n" not in str(caught.value)


def test_an_empty_file_lists_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(b"\n\n")
    assert list(elements(tmp_path / "x.jsonl")) == []


def test_a_line_without_end_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MAX_ELEMENT", 1_000)
    monkeypatch.setattr(stream, "CHUNK", 64)
    (tmp_path / "x.jsonl").write_bytes(row(0) + b"\n" + b"[" + b"1," * 5_000 + b"1]\n" + row(1))
    found = [value for _, value in elements(tmp_path / "x.jsonl")]
    assert [found[0]["image"], found[1], found[2]["image"]] == [
        "0.png",
        BadLine(2, "not JSON (longer than 1,000 bytes)"),
        "1.png",
    ]
