"""Takedown: an image leaves everything, its digest stays refused, and a kill halfway is no way out."""

import json
import sqlite3
import subprocess
import sys
import tarfile
from pathlib import Path

import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest

from sharecap import artifact
from sharecap.captions.card import README, Said, write_card
from sharecap.captions.drop import drop
from sharecap.captions.edits import Edit, edit
from sharecap.captions.export import export
from sharecap.captions.exports.hf import HuggingFace
from sharecap.captions.exports.llava import Llava
from sharecap.captions.exports.register import exports_of
from sharecap.captions.exports.sidecar import Sidecar
from sharecap.captions.exports.webdataset import WebDataset
from sharecap.captions.layer import open_layer, read_layer, write_layer
from sharecap.captions.merge import merge
from sharecap.captions.run import run
from sharecap.errors import UsageError
from sharecap.images.add import add
from sharecap.images.catalog import Catalog
from sharecap.images.failures import failures_of
from sharecap.records import Image

from .conftest import Typed, make_dataset
from .given import given
from .server import Teacher

WORDS = "Zyzzyva"
"""In the caption that is taken down, and nowhere else."""


@pytest.fixture
def full(dataset: Path, tmp_path: Path) -> Path:
    """Twelve images, four layers, every kind of export and a card; the fifth image's words are `WORDS`."""
    rows = given(dataset)
    rows[4] = type(rows[4])(rows[4].image_id, "", f"{WORDS} first. And more.", "people", "none", "stop")
    write_layer(dataset, "hand", rows)
    write_layer(dataset, "some", given(dataset, "Other words.")[:4])
    merge(dataset, ["some", "hand"], "both")
    edit(dataset, "hand", [Edit(rows[4].image_id, 2, "And more.", f"{WORDS} again.")], "edited")
    export(dataset, "hand", Llava(tmp_path / "rows.json"))
    export(dataset, "both", HuggingFace(tmp_path / "hf"))
    export(dataset, "edited", WebDataset(tmp_path / "wds"))
    export(dataset, "hand", Sidecar(dataset))
    write_card(dataset, "both", tmp_path / "hf", Said("cc-by-4.0", "https://example.org/terms", "Mine"))
    return dataset


def fifth(dataset: Path) -> Image:
    return list(Catalog.open(dataset))[4]


def bytes_below(folder: Path) -> bytes:
    """Every file's bytes, Parquet ones as the text they hold."""
    found = b""
    for path in folder.rglob("*"):
        if path.is_file():
            found += path.read_bytes()
            if path.suffix == ".parquet":
                found += str(pq.read_table(path).to_pylist()).encode()
    return found


def test_an_image_leaves_catalog_layers_and_every_export(full: Path, tmp_path: Path) -> None:
    image = fifth(full)
    pixels = Path(image.path).read_bytes()
    assert pixels in (tmp_path / "wds" / "shard-000000.tar").read_bytes()
    report = drop(full, [image.id], "asked by the photographer")
    assert (report.images, report.problems) == (1, [])
    assert report.layers == {"both": 1, "edited": 1, "hand": 1}
    places = [str(tmp_path / name) for name in ("rows.json", "hf", "wds")]
    assert report.exports == dict.fromkeys(["beside the images", *places], 1)
    assert report.yours == [image.path]
    Path(image.path).unlink()
    left = bytes_below(tmp_path)
    assert WORDS.encode() not in left
    assert pixels not in left
    (full / "takedown.jsonl").unlink()
    assert image.id.encode() not in bytes_below(tmp_path)


def test_what_stays_is_whole(full: Path, tmp_path: Path) -> None:
    image = fifth(full)
    drop(full, [image.id], "asked")
    assert len(Catalog.open(full)) == 11
    for name in ("hand", "both", "edited", "some"):
        sealed = open_layer(full, name)
        assert sealed.inputs["catalog"] == Catalog.open(full).digest
        assert sealed.digest == artifact.files_digest(sealed.path)
        assert sealed.key == artifact.key_of("layer", sealed.config, sealed.inputs)
        assert sealed.metrics["captions"] == len(list(read_layer(full, name)))
    ids = [image.id for image in Catalog.open(full)]
    assert [row["id"] for row in json.loads((tmp_path / "rows.json").read_text())] == ids
    assert pq.read_table(tmp_path / "hf" / "data").column("image_id").to_pylist() == ids
    with tarfile.open(tmp_path / "wds" / "shard-000000.tar") as tar:
        assert [name.partition(".")[0] for name in tar.getnames()[::3]] == ids
    for kept in exports_of(full):
        for file in kept.files:
            out = Path(kept.out)
            place = out if out.is_file() else out / file.name
            assert (file.bytes, file.sha256) == (place.stat().st_size, artifact.file_digest(place))
    assert "11 captions of 11 images" in (tmp_path / "hf" / README).read_text()
    assert "| taken down on request | 1 |" in (tmp_path / "hf" / README).read_text()
    assert export(full, "hand", Llava(tmp_path / "again.json")).rows == 11


def test_the_list_keeps_digest_date_and_reason_and_add_refuses_the_image(full: Path, tmp_path: Path) -> None:
    image = fifth(full)
    drop(full, [image.id], "asked")
    (kept,) = [json.loads(line) for line in (full / "takedown.jsonl").read_text().splitlines()]
    assert (set(kept), kept["sha256"], kept["reason"]) == ({"sha256", "date", "reason"}, image.id, "asked")
    report = add([tmp_path / "pictures"], full)
    assert (report.added, report.known, report.failed) == (0, 11, {"taken_down": 1})
    assert [failure.path for failure in failures_of(full)] == [image.path]


def test_an_image_that_is_not_there_is_refused_from_then_on(tmp_path: Path) -> None:
    dataset, more = make_dataset(tmp_path, 2), make_dataset(tmp_path / "more", 3)
    last = list(Catalog.open(more))[2]
    report = drop(dataset, [last.id], "asked before it came")
    assert (report.images, report.not_there, report.problems) == (0, 1, [])
    assert add([tmp_path / "more" / "pictures"], dataset).failed == {"taken_down": 1}


def test_the_ledger_forgets_the_words_and_keeps_the_bill(tmp_path: Path, teacher: Teacher) -> None:
    dataset = make_dataset(tmp_path, 3)
    teacher.script = lambda seen: f"say=A {WORDS} sits on a fence." if seen.number == 2 else "ok"
    run(dataset, f"{teacher.url}#model", "unified", "one", concurrency=1)
    image = list(Catalog.open(dataset))[1]
    with sqlite3.connect(dataset / "ledger.sqlite") as db:
        (before,) = db.execute("SELECT sum(prompt_tokens) FROM requests").fetchone()
    assert drop(dataset, [image.id], "asked").answers == 1
    assert WORDS.encode() not in bytes_below(dataset)
    with sqlite3.connect(dataset / "ledger.sqlite") as db:
        assert db.execute("SELECT sum(prompt_tokens) FROM requests").fetchone() == (before,)
    requests = len(teacher.log)
    assert run(dataset, f"{teacher.url}#model", "unified", "one").captions == 2
    assert len(teacher.log) == requests


@pytest.mark.parametrize(
    "step", ["put_down", "_from_exports", "from_layer", "_from_ledger", "publish", "_from_cards"]
)
def test_killed_at_any_step_the_same_command_finishes(full: Path, tmp_path: Path, step: str) -> None:
    image = fifth(full)
    code = (
        "import os; from pathlib import Path; from sharecap.captions import drop as d;"
        f"real = d.{step}; times = [];"
        f"d.{step} = lambda *a: (real(*a), times.append(1), os._exit(9) if len(times) > 0 else None)[0];"
        f"d.drop(Path({str(full)!r}), [{image.id!r}], 'asked')"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert drop(full, [image.id], "asked").problems == []
    Path(image.path).unlink()
    assert WORDS.encode() not in bytes_below(tmp_path)
    for name in ("hand", "both", "edited", "some"):
        sealed = open_layer(full, name)
        assert sealed.inputs["catalog"] == Catalog.open(full).digest
        assert sealed.metrics["captions"] == len(list(read_layer(full, name)))
    assert "11 captions of 11 images" in (tmp_path / "hf" / README).read_text()


def test_what_cannot_be_rewritten_is_named_and_the_command_fails(
    full: Path, tmp_path: Path, typed: Typed
) -> None:
    image = fifth(full)
    (tmp_path / "wds").rename(tmp_path / "moved")
    whole = json.loads((tmp_path / "rows.json").read_text())
    (tmp_path / "rows.json").write_text(json.dumps(whole, indent=2))
    Path(image.path).with_suffix(".txt").write_text("somebody's own")
    (tmp_path / "hf" / README).write_text("my own card")
    code, out, _ = typed("drop", full, image.id, "--reason", "asked")
    told = [line for line in out.splitlines() if line.startswith("NOT DONE")]
    assert (code, len(told)) == (1, 4)
    for says in ("moved or removed", "not a row as sharecap wrote it", "edited since it was written", README):
        assert any(says in line for line in told)
    assert json.loads((tmp_path / "rows.json").read_text()) == whole
    assert (tmp_path / "hf" / README).read_text() == "my own card"
    assert image.id not in [image.id for image in Catalog.open(full)]


def test_one_export_that_somebody_broke_keeps_no_other_from_the_takedown(
    full: Path, tmp_path: Path, typed: Typed
) -> None:
    image = fifth(full)
    with open(tmp_path / "rows.json", "ab") as file:
        file.write(b"\xff\xfe\n")
    (tmp_path / "rows.json.left-out.jsonl").write_text("{")
    shard = next((tmp_path / "hf" / "data").iterdir())
    pq.write_table(pq.read_table(shard).drop_columns("image_id"), shard)
    code, out, _ = typed("drop", full, image.id, "--reason", "asked")
    told = [line for line in out.splitlines() if line.startswith("NOT DONE")]
    assert (code, len(told)) == (1, 3)
    assert [tar for tar in (tmp_path / "wds").glob("*.tar") if WORDS.encode() in tar.read_bytes()] == []
    assert image.id not in [image.id for image in Catalog.open(full)]


@pytest.mark.parametrize("form", [HuggingFace, Llava])
def test_an_export_killed_as_it_ended_is_named(full: Path, tmp_path: Path, form: type, typed: Typed) -> None:
    out = tmp_path / "late"
    code = (
        "import os; from pathlib import Path; from sharecap.captions import export as e;"
        f"from sharecap.captions.exports.{form.form} import {form.__name__} as Form;"
        "keep = e.register.record;"
        "e.register.record = lambda d, x: os._exit(9) if x.written else keep(d, x);"
        f"e.export(Path({str(full)!r}), 'hand', Form(Path({str(out)!r})))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert out.exists()
    code_, said, _ = typed("drop", full, fifth(full).id, "--reason", "asked")
    assert code_ == 1
    assert f"{out}: {form.form} export that was killed as it ended" in said.replace("\n", " ")


def test_a_shard_that_loses_its_last_row_goes_too(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, 1)
    write_layer(dataset, "hand", given(dataset))
    for form in (HuggingFace, WebDataset):
        export(dataset, "hand", form(tmp_path / form.form))
    report = drop(dataset, [next(iter(Catalog.open(dataset))).id], "asked")
    assert report.problems == []
    assert [path for form in ("hf", "webdataset") for path in (tmp_path / form).rglob("*.*")] == []
    assert [(e.rows, e.files) for e in exports_of(dataset)] == [(0, []), (0, [])]


@pytest.mark.parametrize(
    ("digests", "reason", "says"),
    [(["abc"], "asked", "not a digest"), (["F" * 64], "asked", "lower case"), (["0" * 64], " ", "a reason")],
)
def test_wrong_usage_takes_nothing_down(dataset: Path, digests: list[str], reason: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        drop(dataset, digests, reason)
    assert not (dataset / "takedown.jsonl").exists()
