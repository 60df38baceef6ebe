"""The page as a file: complete, closed to the outside, and safe with whatever a captioner says."""

import base64
import hashlib
import io
import os
import re
import resource
import signal
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sharecap.errors import SharecapError
from sharecap.report.document import (
    Gallery,
    GalleryItem,
    Mark,
    MarkedText,
    Paragraph,
    Pipeline,
    Report,
    Section,
    Stage,
)
from sharecap.report.html import pieces, render, stages, total, write_report
from tests.report import example

VOID = {"meta", "img"}


class Page(HTMLParser):
    """Reads a page strictly: every element closes, and every attribute and text is kept."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data)


def with_caption(text: str, *marks: Mark) -> Report:
    item = GalleryItem(example.picture(0), text, (MarkedText(text, text, marks, text),), text)
    return Report(text, text, (), (Section(text, (Paragraph(text), Gallery((item,), text))),), text)


@pytest.fixture(scope="module")
def page() -> str:
    return render(example.report())


def test_the_page_is_well_formed_and_says_what_the_report_says(page):
    read = Page(page)
    words = " ".join(" ".join(read.text).split())
    for expected in (
        "Do detailed captions make a better model?",
        "+14.6 to +18.0",
        "5 min 03 s",
        "n/a",
        "$1.23",
    ):
        assert expected in words
    ids = [attributes["id"] for _, attributes in read.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_equal_reports_give_equal_pages(page):
    assert render(example.report()) == page


def test_the_page_loads_nothing_and_runs_nothing(page):
    read = Page(page)
    assert not {"script", "link", "iframe", "object", "embed", "form", "base"} & {tag for tag, _ in read.tags}
    for _, attributes in read.tags:
        assert "style" not in attributes
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/png;base64,"))
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    assert "url(" not in style
    assert "@import" not in style


def test_the_policy_admits_this_style_sheet_and_data_images_only(page):
    (policy,) = (a["content"] for t, a in Page(page).tags if a.get("http-equiv") == "Content-Security-Policy")
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy.split("; ")[:3] == ["default-src 'none'", "img-src data:", f"style-src 'sha256-{digest}'"]
    assert "unsafe" not in policy


HOSTILE = (
    "</style><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{ 7 * 7 }}{% raw %}<b>",
    "&lt;script&gt; &amp; \N{RIGHT-TO-LEFT OVERRIDE}txet",
    "nul \x00, escape \x1b[31m, half a pair \ud83d, \ufffe",
    "'\"`<!-- -->]]>",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_words_are_only_words(text):
    read = Page(render(with_caption(text, Mark(0, 5, "wrong"))))
    assert "script" not in {tag for tag, _ in read.tags}
    assert [attributes["src"][:5] for tag, attributes in read.tags if tag == "img"] == ["data:"]
    expected = re.sub("[\x00-\x08\x0b-\x1f\ud83d\ufffe]", "\N{REPLACEMENT CHARACTER}", text)
    assert "".join(read.text).count(expected) >= 7  # everywhere but in the alternative text of the picture
    (alt,) = (attributes["alt"] for tag, attributes in read.tags if tag == "img")
    assert alt == expected


@given(
    st.text(max_size=40),
    st.lists(
        st.tuples(st.integers(-5, 50), st.integers(-5, 50), st.sampled_from(["wrong", "right"])), max_size=6
    ),
)
def test_marking_loses_no_character_and_wrong_wins(text, spans):
    marks = tuple(Mark(start, end, kind) for start, end, kind in spans)
    found = pieces(MarkedText("x", text, marks))
    assert "".join(piece.text for piece in found) == text
    painted = [piece.kind for piece in found for _ in piece.text]
    for i, kind in enumerate(painted):
        covering = {mark.kind for mark in marks if mark.start <= i < mark.end}
        assert kind == ("wrong" if "wrong" in covering else "right" if covering else "")


def test_stages_that_ran_side_by_side_are_seen_to():
    ran = Pipeline(
        (Stage("a", "", 10, start=0), Stage("b", "", 10, start=10), Stage("c", "", 5, start=10)), 20
    )
    assert [(view.start, view.share) for view in stages(ran)] == [(0, 50), (50, 50), (50, 25)]
    assert total(ran).seconds == 20


def test_without_every_start_only_the_lengths_tell():
    ran = Pipeline((Stage("a", "", 10, 0.5, start=0), Stage("b", "", 5), Stage("c", "")))
    assert [(view.start, view.share) for view in stages(ran)] == [(0, 100), (0, 50), (0, 0)]
    assert (total(ran).seconds, total(ran).cost_usd) == (15, 0.5)
    assert (total(Pipeline(())).seconds, total(Pipeline(())).cost_usd) == (None, None)


def test_a_picture_arrives_unchanged():
    png = example.picture(3)
    (src,) = (a["src"] for t, a in Page(render(with_caption("x"))).tags if t == "img")
    assert Image.open(io.BytesIO(base64.b64decode(src.partition(",")[2]))).size == (192, 192)
    item = GalleryItem(png, "x", ())
    report = Report("x", "", (), (Section("x", (Gallery((item,)),)),))
    assert base64.b64encode(png).decode() in render(report)


def test_what_is_not_a_png_is_refused():
    report = Report("x", "", (), (Section("x", (Gallery((GalleryItem(b"GIF89a", "x", ()),)),)),))
    with pytest.raises(AssertionError, match="PNG"):
        render(report)


def test_an_empty_report_is_a_page_too():
    assert Page(render(Report("Nothing yet", "", (), ()))).open == []


def test_writing_makes_the_folder_and_leaves_no_partial_file(tmp_path):
    path = write_report(example.report(), tmp_path / "new" / "report.html")
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert os.listdir(path.parent) == ["report.html"]


def test_a_failed_write_keeps_the_old_page_and_says_what_to_do(tmp_path):
    path = tmp_path / "report.html"
    write_report(Report("Old", "", (), ()), path)
    old = path.read_bytes()
    # A process that may write only 8 KiB per file stands for a full disk.
    code = (
        "import sys; from pathlib import Path; from sharecap.errors import SharecapError\n"
        "from sharecap.report.html import write_report; from tests.report import example\n"
        "try: write_report(example.report(), Path(sys.argv[1]))\n"
        "except SharecapError as error: print(error)"
    )

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))

    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], preexec_fn=limit, capture_output=True, text=True, check=True
    )
    todo = "make room or choose another place, then run again"
    assert done.stdout == f"could not write the report (File too large): {path}. {todo}\n"
    assert path.read_bytes() == old


def test_a_report_cannot_be_written_where_a_file_stands_for_a_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(SharecapError, match="could not write the report"):
        write_report(replace(example.report(), sections=()), tmp_path / "file" / "report.html")
