"""The gallery over real files: pages, filters, words, order, one image, an index half made."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharecap.captions.layer import layers, write_layer
from sharecap.images.catalog import Catalog
from sharecap.images.duplicates import find_duplicates
from sharecap.records import Caption
from sharecap.web.building import build
from sharecap.web.index import Index
from sharecap.web.query import Finder, Query, match_of, parse

from .conftest import Server, captioned, serving


def finder(dataset: Path) -> Finder:
    build(dataset)
    return Finder(Index(dataset, lambda *_: None))


def walked(found: Finder, query: Query, size: int) -> list[int]:
    """All places that the query finds, page by page."""
    places: list[int] = []
    after = ""
    while True:
        page = found.page(query, after, size=size)
        places += page.places
        if not page.after:
            return places
        after = page.after


@pytest.mark.parametrize("order", ["", "longest", "shortest", "best", "worst"])
def test_pages_join_to_all_images_once_in_order_and_the_neighbours_are_right(
    tmp_path: Path, order: str
) -> None:
    dataset = captioned(tmp_path, 12)
    (dataset / "scores").mkdir()
    ids = [image.id for image in Catalog.open(dataset)]
    scores = [{"image_id": i, "score": n % 4, "sentences": ["wrong"]} for n, i in enumerate(ids)]
    (dataset / "scores" / "teacher.jsonl").write_text("".join(json.dumps(s) + "\n" for s in scores))
    found, query = finder(dataset), Query("teacher", order=order)
    places = walked(found, query, 5)
    assert places == walked(found, query, 100)
    assert sorted(places) == list(range(12))
    words = {n: len(f"A man waves. He wears a red hat. Number {n}.".split()) for n in range(0, 12, 3)}
    wanted = {
        "": lambda at: at,
        "longest": lambda at: (-(words.get(at) or 0), at),
        "shortest": lambda at: ((words.get(at) or 0), at),
        "best": lambda at: (-(at % 4), at),
        "worst": lambda at: (at % 4, at),
    }[order]
    if order not in ("longest", "shortest"):
        assert places == sorted(range(12), key=wanted)
    for n, at in enumerate(places):
        before = places[n - 1] if n else None
        after = places[n + 1] if n + 1 < 12 else None
        assert found.beside(query, at) == (before, after)


def test_longest_captions_come_first(tmp_path: Path) -> None:
    found = finder(captioned(tmp_path, 12))
    texts = [
        found.index.caption(found.index.layers()["teacher"], at, "").text
        for at in walked(found, Query("teacher", order="longest"), 5)
    ]
    lengths = [len(text.split()) for text in texts]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] > lengths[-1]


def test_words_phrases_beginnings_and_exclusions_are_found(tmp_path: Path) -> None:
    found = finder(captioned(tmp_path, 12))
    for words, count in {
        "red": 4,
        "RED hat": 4,
        '"red hat"': 4,
        '"hat red"': 0,
        "flo*": 4,
        "dog -sofa": 0,
        "a -dog": 4,
        "red\0hat": 4,
        "\0": 12,
        "number": 12,
        "blue": 0,
        "'": 12,
    }.items():
        query = Query("teacher", q=words)
        assert (found.count(query), len(walked(found, query, 3))) == (count, count), words
    assert found.count(Query("captioner", q="blue")) == 4


@given(st.text(max_size=40))
def test_whatever_is_typed_is_words_and_never_syntax(text: str) -> None:
    import sqlite3

    db = sqlite3.connect(":memory:")
    db.execute("CREATE VIRTUAL TABLE t USING fts5 (text)")
    if match := match_of(text):
        db.execute("SELECT count(*) FROM t WHERE t MATCH ?", (match,)).fetchall()


def test_filters_join(tmp_path: Path) -> None:
    dataset = captioned(tmp_path, 12)
    ids = [image.id for image in Catalog.open(dataset)]
    rows = [
        Caption(i, "", "Flagged. " * (n + 1), "x", "p", "stop", flags=("odd",) * (n % 2))
        for n, i in enumerate(ids)
    ]
    write_layer(dataset, "third", rows)
    found = finder(dataset)
    assert found.count(Query("captioner", state="missing")) == 1
    assert found.count(Query("captioner", failure="not_given")) == 1
    assert found.count(Query("captioner", state="captioned", source="coco")) == 11
    assert found.count(Query("third", flag="odd", least=4, most=8)) == 3
    assert found.count(Query("third", source="nowhere")) == 0
    assert walked(found, Query("third", state="marked"), 5) == []
    assert found.page(Query("third", state="marked"), marked=[3, 5]).places == [3, 5]


def test_near_duplicates_are_told_where_they_were_looked_for(tmp_path: Path) -> None:
    dataset = captioned(tmp_path, 12)
    find_duplicates(dataset, 10)
    found = finder(dataset)
    copies = found.index.rows("SELECT count(DISTINCT at) FROM near")[0][0]
    assert found.count(Query("teacher", state="duplicate")) == copies


def test_images_like_a_benchmark_s_are_found_and_told(dataset: Path) -> None:
    import shutil

    from sharecap.images.overlap import find_overlap

    images = list(Catalog.open(dataset))
    (dataset.parent / "bench").mkdir()
    shutil.copy(images[2].path, dataset.parent / "bench" / "question-7.png")
    find_overlap(dataset, [dataset.parent / "bench"], 0)
    with serving(dataset) as server:
        assert server.room.finder.page(Query("teacher", state="overlap")).places == [2]
        page = server.text(f"/image/{images[2].id}?layer=teacher")
        assert "like a benchmark" in page
        assert "question-7.png" in page


def test_scores_are_filtered_by_and_verdicts_colour_sentences(dataset: Path) -> None:
    images = list(Catalog.open(dataset))
    (dataset / "scores").mkdir()
    lines = [
        {"image_id": i.id, "score": n / 10, "sentences": ["right", "wrong", ""]} for n, i in enumerate(images)
    ]
    path = dataset / "scores" / "teacher.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with serving(dataset) as server:
        found = server.room.finder
        assert found.page(Query("teacher", score_from=0.95, order="best")).places == [11, 10]
        assert found.count(Query("teacher", score_to=0.2)) == 3
        page = server.text(f"/image/{images[0].id}?layer=teacher")
        assert re.findall(r'class="sentence (\w*)"', page) == ["right", "wrong", ""]
        path.write_text(json.dumps(lines[4]) + "\n")  # scored anew, with less
        build(dataset)
        assert found.page(Query("teacher", order="best")).places == [4]


def test_a_builder_that_was_killed_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = captioned(tmp_path, 12)
    monkeypatch.setattr("sharecap.web.building.PIECE", 4)

    class KilledError(Exception):
        pass

    def kill(taken: int) -> None:
        if taken == 8:
            raise KilledError

    with pytest.raises(KilledError):
        build(dataset, kill)
    index = Index(dataset, lambda *_: None)
    assert (index.state().taken, index.state().whole) == (8, False)
    assert Finder(index).page(Query("teacher", q="red")).places == [0, 3, 6]
    build(dataset)
    assert index.state().whole
    assert Finder(index).count(Query("teacher", q="number")) == 12
    assert index.rows("SELECT count(*) FROM images")[0][0] == 12


def test_a_new_layer_is_taken_in_and_a_layer_that_is_gone_is_forgotten(tmp_path: Path) -> None:
    import shutil

    dataset = captioned(tmp_path, 6)
    found = finder(dataset)
    ids = [image.id for image in Catalog.open(dataset)]
    write_layer(dataset, "third", [Caption(i, "", "Third.", "x", "p", "stop") for i in ids])
    shutil.rmtree(dataset / "layers" / "captioner")
    assert not found.index.state().whole
    build(dataset)
    assert found.index.state().whole
    assert set(found.index.layers()) == {"teacher", "third", "alt-text"}
    assert found.count(Query("third", q="third")) == 6


def test_the_pages_show_what_the_layers_hold(shared: Server) -> None:
    page = shared.text("/?layer=teacher")
    assert len(re.findall(r'<li class="card', page)) == 12
    assert "12" in shared.text("/found?layer=teacher")
    first = shared.room.index.image(0)
    assert first
    one = shared.text(f"/image/{first.id}?layer=teacher")
    assert "<del>red</del>" in one.replace("\n", "") or "<del>red" in one
    assert "<ins>blue" in one
    assert "600 + 20 tokens" in one
    assert "$0.0020" in one
    status, headers, body = shared.ask("GET", f"/thumb/{first.id}")
    assert (status, headers["content-type"], body[:2]) == (200, "image/jpeg", b"\xff\xd8")
    assert shared.ask("GET", f"/thumb/{first.id}")[2] == body


@pytest.mark.parametrize(
    "path",
    [
        "/?layer=nothing",
        "/?order=sideways",
        "/?least=x",
        "/?score_from=nan",
        "/page?after=1%20OR%201",
        "/page?after=nan~3",
        "/image/0",
        "/thumb/zz",
        f"/image/{'0' * 64}",
        "/studies/none",
        "/rate/none",
        "/ask?image=..",
        "/?q=x&least=%C2%B2",
        f"/image/{'0' * 64}/sentence?n=%C2%B2",
        "/page?after=%C2%B2",
        "/rate/none?trial=x",
    ],
)
def test_what_makes_no_sense_is_one_plain_line(shared: Server, path: str) -> None:
    status, headers, body = shared.ask("GET", path)
    assert (status, headers["content-type"]) == (400, "text/plain; charset=utf-8")
    assert len(body) < 300


def test_a_dataset_without_captions_shows_its_images(tmp_path: Path) -> None:
    from tests.captions.conftest import make_dataset

    with serving(make_dataset(tmp_path, 3)) as server:
        assert layers(server.room.dataset) == []
        assert len(re.findall(r'<li class="card', server.text("/"))) == 3


def test_an_address_says_the_whole_query() -> None:
    query = Query("a", source="s", least=3, q='"two words" -x', order="best")
    from urllib.parse import parse_qsl

    assert parse(dict(parse_qsl(query.address())), ["a"]) == query


def test_a_damaged_cache_is_made_again_and_a_damaged_layer_is_told(dataset: Path) -> None:
    build(dataset)
    index = Index(dataset, lambda *_: None)
    index.path.write_bytes(b"no database at all" * 1000)
    index.path.with_name("thumbs.sqlite").write_bytes(b"neither is this" * 1000)
    with serving(dataset) as server:
        assert len(re.findall(r'<li class="card', server.text("/"))) == 12
        assert server.ask("GET", f"/thumb/{server.room.index.image(0).id}")[0] == 200
    write_layer(
        dataset, "third", [Caption(i.id, "", "Third.", "x", "p", "stop") for i in Catalog.open(dataset)]
    )
    table = dataset / "layers" / "third" / "captions.parquet"
    table.write_bytes(table.read_bytes()[:-200])
    with serving(dataset, made=False) as server:
        server.room.builder._process.wait(60)
        assert server.room.index.state().whole  # the other layers are
        for layer in ("teacher", "third"):
            assert "layer third: damaged layer" in server.text(f"/found?layer={layer}")
            assert len(re.findall(r'<li class="card', server.text(f"/?layer={layer}"))) == 12
