"""Exports: whole or not at all, every row with its image, back again with the same captions."""

import json
from collections import Counter
from pathlib import Path

import pytest

from sharecap.captions.export import export
from sharecap.captions.exports.llava import INSTRUCTIONS, Llava
from sharecap.captions.layer import write_layer
from sharecap.errors import SharecapError, UsageError
from sharecap.images.catalog import Catalog, add

from .conftest import make_dataset
from .test_layer import given


@pytest.mark.parametrize("out", [".", "file/x.json", "/proc/x.json", "n" * 300])
def test_a_place_that_cannot_be_written_to_is_one_clear_error(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    write_layer(dataset, "hand", given(dataset))
    with pytest.raises(SharecapError, match=r"cannot write|this is a directory"):
        export(dataset, "hand", Llava(Path(out)))
    assert not list(tmp_path.rglob("*.partial"))


def exported(path: Path) -> list[dict[str, object]]:
    rows = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(rows, list)
    return rows


def test_rows_are_llavas_and_every_one_has_its_image(dataset: Path, tmp_path: Path) -> None:
    captions = given(dataset, "Ünïcode “boat”")
    write_layer(dataset, "hand", captions)
    report = export(dataset, "hand", Llava(tmp_path / "out.json", image_root=tmp_path / "pictures"))
    rows = exported(tmp_path / "out.json")
    assert (report.rows, report.left_out, len(rows)) == (12, {}, 12)
    for row, caption in zip(rows, captions, strict=True):
        assert set(row) == {"id", "image", "conversations"}
        human, gpt = row["conversations"]  # type: ignore[misc]
        assert (row["id"], gpt) == (caption.image_id, {"from": "gpt", "value": caption.text})
        assert human["from"] == "human"
        assert human["value"].removeprefix("<image>\n") in INSTRUCTIONS
        assert (tmp_path / "pictures" / str(row["image"])).is_file()
        assert str(row["image"]).startswith("coco/")


def test_without_a_root_paths_are_absolute(dataset: Path, tmp_path: Path) -> None:
    write_layer(dataset, "hand", given(dataset))
    export(dataset, "hand", Llava(tmp_path / "out.json"))
    assert all(Path(str(row["image"])).is_absolute() for row in exported(tmp_path / "out.json"))


def test_an_image_outside_the_root_is_wrong_usage_and_writes_nothing(dataset: Path, tmp_path: Path) -> None:
    write_layer(dataset, "hand", given(dataset))
    (tmp_path / "root").mkdir()
    with pytest.raises(UsageError, match="outside the image root"):
        export(dataset, "hand", Llava(tmp_path / "out.json", image_root=tmp_path / "root"))
    assert not list(tmp_path.glob("out.json*"))


def test_a_row_never_goes_without_its_image(dataset: Path, tmp_path: Path) -> None:
    write_layer(dataset, "hand", given(dataset)[2:])
    images = [Path(image.path) for image in Catalog.open(dataset)]
    images[3].unlink()
    report = export(dataset, "hand", Llava(tmp_path / "out.json"))
    assert (report.rows, report.without_caption, report.left_out) == (9, 2, {"missing": 1})
    named = [json.loads(line) for line in Path(report.named_in).read_text().splitlines()]
    assert [(row["where"], row["reason"]) for row in named] == [(str(images[3]), "missing")]
    assert len(exported(tmp_path / "out.json")) == 9


def test_an_images_instruction_depends_on_the_seed_and_nothing_else(dataset: Path, tmp_path: Path) -> None:
    def instructions(layer: str, seed: int) -> dict[object, str]:
        export(dataset, layer, Llava(tmp_path / "out.json", seed=seed))
        rows = exported(tmp_path / "out.json")
        return {row["id"]: row["conversations"][0]["value"] for row in rows}  # type: ignore[index]

    write_layer(dataset, "all", given(dataset))
    write_layer(dataset, "some", given(dataset, "Other.")[5:])
    whole, part = instructions("all", 0), instructions("some", 0)
    assert part == {key: whole[key] for key in part}
    assert instructions("all", 1) != whole
    assert len(Counter(whole.values())) > 1


def test_an_export_of_a_layer_older_than_the_images_is_refused(dataset: Path, tmp_path: Path) -> None:
    write_layer(dataset, "hand", given(dataset))
    add([make_dataset(tmp_path / "more", 13).parent / "pictures"], dataset)
    with pytest.raises(SharecapError, match="images were added"):
        export(dataset, "hand", Llava(tmp_path / "out.json"))
