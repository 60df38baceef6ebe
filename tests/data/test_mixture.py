"""A mixture is drawn by count and weight, from its seed alone, and refuses files that changed since."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sharecap.cli import app
from sharecap.data.mixture import Mixture, Part, Swap, keep, mix, open_rows, part_of
from sharecap.data.rows import Rows, read_rows, write_rows
from sharecap.errors import SharecapError, UsageError
from sharecap.records import Conversation
from tests.data.words import row


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Two files of 10 and 5 rows with an image root each."""
    found = {}
    for name, count in (("coco", 10), ("sam", 5)):
        root = tmp_path / name
        rows = [row(f"{name}{i}", str(root / ("a" if i % 2 else "b") / f"{i}.png")) for i in range(count)]
        rows[0] = row(f"{name}0")
        found[name] = tmp_path / f"{name}.json"
        write_rows(found[name], rows, root)
    return found


def ids(rows: object) -> Counter[str]:
    assert isinstance(rows, list) or hasattr(rows, "__getitem__")
    return Counter(row.id for row in rows)  # type: ignore[attr-defined]


def test_counts_draw_without_repeats_as_long_as_there_are_rows(files: dict[str, Path]) -> None:
    parts = (Part(files["coco"], count=4), Part(files["sam"], count=12))
    made = mix(Mixture(parts, seed=1))
    assert made.counts == (4, 12)
    found = ids(made.rows)
    assert sum(n for name, n in found.items() if name.startswith("coco")) == 4
    assert all(n == 1 for name, n in found.items() if name.startswith("coco"))
    assert sorted(n for name, n in found.items() if name.startswith("sam")) == [2, 2, 2, 3, 3]
    assert ids(mix(Mixture(parts, seed=1)).rows) == found
    assert ids(mix(Mixture(parts, seed=2)).rows) != found
    more = mix(Mixture((*parts, Part(files["sam"])), seed=1))
    assert list(more.rows)[:16] == list(made.rows)


def test_weights_share_out_what_the_others_leave(files: dict[str, Path]) -> None:
    parts = (
        Part(files["sam"]),
        Part(files["coco"], weight=2),
        Part(files["sam"], weight=1),
        Part(files["coco"], count=1),
    )
    assert mix(Mixture(parts, rows=21)).counts == (5, 10, 5, 1)
    assert mix(Mixture(parts, rows=22)).counts == (5, 11, 5, 1)
    with pytest.raises(UsageError, match="5 rows are wanted, parts without a weight have 6"):
        mix(Mixture(parts, rows=5))
    with pytest.raises(UsageError, match="give both or none"):
        Mixture(parts)
    with pytest.raises(UsageError, match="give count or weight"):
        Part(files["coco"], count=1, weight=1)


def test_rows_are_chosen_by_their_images_path(files: dict[str, Path], tmp_path: Path) -> None:
    root = tmp_path / "coco"
    assert set(ids(mix(Mixture((Part(files["coco"], root, only="a/*"),))).rows)) == {
        f"coco{i}" for i in (1, 3, 5, 7, 9)
    }
    assert list(ids(mix(Mixture((Part(files["coco"], root, only=""),))).rows)) == ["coco0"]
    with pytest.raises(UsageError, match="no such rows to draw from"):
        mix(Mixture((Part(files["coco"], root, only="c/*", count=1),)))


def test_a_kept_mixture_gives_its_rows_back_and_names_a_file_that_changed(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    parts = (Part(Path("coco.json"), Path("coco"), count=3), Part(Path("sam.json"), Path("sam")))
    kept = keep(Mixture(parts), tmp_path / "mix")
    rows = open_rows(tmp_path / "mix")
    assert list(rows) == list(
        mix(
            Mixture(tuple(Part(p.path.absolute(), p.images.absolute(), p.count) for p in parts if p.images))
        ).rows
    )
    assert [Path(image).parent.name for image in rows[3].images] in ([], ["b"])
    assert keep(Mixture(parts), tmp_path / "mix") == kept
    write_rows(files["sam"], list(Rows(files["sam"]))[1:], tmp_path)
    with pytest.raises(
        SharecapError, match=r"made from other rows than this file holds now: .*sam.json. mix again"
    ):
        open_rows(tmp_path / "mix")
    with pytest.raises(SharecapError, match="no finished result here"):
        open_rows(tmp_path)


def test_the_command_mixes_swaps_and_writes(files: dict[str, Path], tmp_path: Path) -> None:
    old = list(Rows(files["coco"], tmp_path / "coco"))[2:5]
    write_rows(tmp_path / "old.json", old)
    new = [
        row("new3", str(tmp_path / "coco/a/3.png")),
        *(row(f"new{i}", str(tmp_path / f"coco/b/1{i}.png")) for i in range(4)),
    ]
    write_rows(tmp_path / "new.json", new)
    command = [
        "mix",
        f"{files['coco']},images={tmp_path / 'coco'}",
        f"{files['sam']},count=2,images={tmp_path / 'sam'}",
    ]
    command += ["--replace", str(tmp_path / "old.json"), "--by", f"{tmp_path / 'new.json'}"]
    command += ["--to", str(tmp_path / "mix"), "--out", str(tmp_path / "all.json")]
    done = CliRunner().invoke(app, [*command, "--json"], catch_exceptions=False)
    assert json.loads(done.stdout) == {
        "rows": 12,
        "parts": [10, 2],
        "replaced": {"same_image": 1, "same_source": 2, "other_source": 0},
    }
    rows: list[Conversation] = list(open_rows(tmp_path / "mix"))
    assert read_rows(tmp_path / "all.json") == rows
    assert rows[3].id == "new3"
    assert [r.id for r in rows[5:10]] == [f"coco{i}" for i in range(5, 10)]
    assert "3 of them replaced: 1 by a row about the same image" in CliRunner().invoke(app, command).stdout


def test_a_mixture_is_never_written_over_the_rows_that_it_is_read_from(
    files: dict[str, Path], tmp_path: Path
) -> None:
    before = files["coco"].read_bytes()
    done = CliRunner().invoke(
        app, ["mix", str(files["coco"]), "--to", str(tmp_path / "m"), "--out", str(files["coco"])]
    )
    assert isinstance(done.exception, UsageError)
    assert "rows are read from this file" in str(done.exception)
    assert files["coco"].read_bytes() == before
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    os.mkfifo(tmp_path / "pipe")
    for place in ("picture.png", "pipe"):
        done = CliRunner().invoke(
            app, ["mix", str(files["coco"]), "--to", str(tmp_path / "m"), "--out", str(tmp_path / place)]
        )
        assert "no file of rows" in str(done.exception)
    assert not (tmp_path / "m").exists()
    (tmp_path / "file").write_text("mine")
    done = CliRunner().invoke(app, ["mix", str(files["coco"]), "--to", str(tmp_path / "file/m")])
    assert "cannot write (Not a directory)" in str(done.exception)
    with pytest.raises(UsageError, match="weight must be a number above 0"):
        part_of(f"{files['coco']},weight=nan")


def test_counted_replacements_are_first_those_about_the_same_images(
    files: dict[str, Path], tmp_path: Path
) -> None:
    root = tmp_path / "coco"
    old = list(Rows(files["coco"], root))[5:9]
    write_rows(tmp_path / "old.json", old)
    new = [row(f"new{i}", str(root / ("a" if i % 2 else "b") / f"{i}.png")) for i in range(30)]
    write_rows(tmp_path / "new.json", new, root)
    parts = (Part(tmp_path / "new.json", root, count=3, only="a/*"), Part(files["sam"], only="", count=1))
    made = mix(Mixture((Part(files["coco"], root),), swap=Swap(tmp_path / "old.json", parts)))
    assert sorted(r.id for r in list(made.rows)[5:9])[1:] == ["new5", "new7", "sam0"]
    assert made.substitution is not None
    assert made.substitution.same_image == 2


def test_a_part_is_read_from_one_word() -> None:
    assert part_of("a.json") == Part(Path("a.json"))
    assert part_of("a.json,weight=2.5,only=sam/*,images=x") == Part(
        Path("a.json"), Path("x"), weight=2.5, only="sam/*"
    )
    for wrong in ("a.json,size=3", "a.json,count=few"):
        with pytest.raises(UsageError, match="cannot read"):
            part_of(wrong)
    with pytest.raises(UsageError, match="has no weight"):
        Swap(Path("old"), (part_of("a.json,weight=1"),))
