"""Cards: a README that a hub reads, Croissant that passes its own checker, nothing that isn't on record."""

import json
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given as generated
from hypothesis import strategies as st

from sharecap.captions.card import CROISSANT, README, Said, write_card
from sharecap.captions.export import export
from sharecap.captions.exports.hf import HuggingFace
from sharecap.captions.exports.llava import Llava
from sharecap.captions.exports.webdataset import WebDataset
from sharecap.captions.layer import write_layer
from sharecap.captions.merge import merge
from sharecap.captions.price import Price
from sharecap.captions.run import run
from sharecap.errors import UsageError
from sharecap.images.add import add
from sharecap.images.candidate import Options
from sharecap.images.catalog import Catalog
from sharecap.markdown import markdown, one_line, yaml_text

from .conftest import Typed, make_dataset
from .given import given
from .server import Teacher

SAID = Said("cc-by-4.0", "https://example.org/terms, outputs may train models", "Boats & birds")


@pytest.fixture
def told(tmp_path: Path, teacher: Teacher) -> Path:
    """A dataset with one bad file, and a layer `one`: nine captions and a refusal of a priced teacher."""
    dataset = make_dataset(tmp_path, 10)
    (tmp_path / "pictures" / "coco" / "bad.png").write_bytes(b"no picture")
    add([tmp_path / "pictures"], dataset)
    third = list(Catalog.open(dataset))[2].id
    teacher.script = lambda seen: "refusal" if seen.image == third else "ok"
    run(dataset, f"{teacher.url}#the_model*", "unified", "one", concurrency=1, price=Price(2.0, 4.0))
    return dataset


def head(path: Path) -> dict[str, object]:
    parts = path.read_text(encoding="utf-8").split("---\n")
    found = yaml.safe_load(parts[1])
    assert isinstance(found, dict)
    return found


def checked(path: Path) -> dict[str, object]:
    """The Croissant file, which `mlcroissant` must find without errors."""
    import mlcroissant

    dataset = mlcroissant.Dataset(jsonld=path)
    assert not dataset.metadata.ctx.issues.errors, dataset.metadata.ctx.issues.report()
    found = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def test_the_readme_says_what_is_on_record(told: Path, tmp_path: Path) -> None:
    export(told, "one", HuggingFace(tmp_path / "hf"))
    write_card(told, "one", tmp_path / "hf", SAID)
    text = (tmp_path / "hf" / README).read_text(encoding="utf-8")
    for line in (
        "9 captions of 10 images",
        "https://example.org/terms, outputs may train models",
        r"| captioner | the\_model\* |",
        r"| made by | prompts unified@1 |",
        r"| no caption: refusal | 1 |",
        r"| file not taken: not\_an\_image | 1 |",
        "| taken down on request | 0 |",
        "| not stated | 9 |",
        "| answered | 20",
    ):
        assert line in text
    assert "| cost | 0.0" in text
    yaml_head = head(tmp_path / "hf" / README)
    assert (yaml_head["pretty_name"], yaml_head["license"]) == ("Boats & birds", "cc-by-4.0")
    assert yaml_head["size_categories"] == ["n<1K"]


def test_datasets_still_loads_a_directory_with_a_card(
    told: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from datasets import load_dataset

    export(told, "one", HuggingFace(tmp_path / "hf"))
    write_card(told, "one", tmp_path / "hf", SAID)
    found = load_dataset(str(tmp_path / "hf"), cache_dir=str(tmp_path / "cache"))
    assert {name: len(rows) for name, rows in found.items()} == {"train": 9}


def test_croissant_is_valid_and_names_files_teacher_prompts_and_drops(told: Path, tmp_path: Path) -> None:
    report = export(told, "one", HuggingFace(tmp_path / "hf"))
    write_card(told, "one", tmp_path / "hf", SAID)
    found = checked(tmp_path / "hf" / CROISSANT)
    assert found["conformsTo"] == "http://mlcommons.org/croissant/1.1"
    shard, _ = found["distribution"]  # type: ignore[misc]
    assert (shard["contentUrl"], shard["sha256"]) == (report.files[0].name, report.files[0].sha256)
    (made,) = found["prov:wasGeneratedBy"]  # type: ignore[misc]
    assert made["prov:wasAssociatedWith"]["prov:label"] == "the_model*"
    assert made["prov:used"][0]["prov:value"].startswith("sha256:")
    assert made["dct:rights"] == SAID.terms
    assert "failed: 1 refusal; cost: 0.0" in made["dct:extent"]


def test_croissants_own_reader_reads_the_captions(told: Path, tmp_path: Path) -> None:
    import mlcroissant

    export(told, "one", HuggingFace(tmp_path / "hf"))
    write_card(told, "one", tmp_path / "hf", SAID)
    rows = list(mlcroissant.Dataset(jsonld=tmp_path / "hf" / CROISSANT).records("captions"))
    assert len(rows) == 9
    assert all(b"picture" in row["captions/caption"] for row in rows)


@pytest.mark.parametrize("form", ["llava", "webdataset", "nothing"])
def test_a_card_beside_any_export_or_none_is_valid(told: Path, tmp_path: Path, form: str) -> None:
    place = tmp_path / "place"
    if form != "nothing":
        export(told, "one", Llava(place / "rows.json") if form == "llava" else WebDataset(place))
    write_card(told, "one", place, SAID)
    found = checked(place / CROISSANT)
    assert len(found["distribution"]) == (form != "nothing")  # type: ignore[arg-type]
    assert "configs" not in head(place / README)


def test_a_merged_layers_card_names_all_that_it_was_made_of(told: Path, tmp_path: Path) -> None:
    write_layer(told, "hand", given(told)[:2])
    merge(told, ["hand", "one"], "both")
    write_card(told, "both", tmp_path / "card", SAID)
    text = (tmp_path / "card" / README).read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if line.startswith("### Layer")] == [
        "### Layer both",
        "### Layer hand",
        "### Layer one",
    ]
    assert "merged from hand, one by rule first" in text
    found = checked(tmp_path / "card" / CROISSANT)
    assert len(found["prov:wasGeneratedBy"]) == 3  # type: ignore[arg-type]


def test_hostile_names_become_no_markup(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, 1)
    evil = "<script>alert(1)</script>\n---\nlicense: mit\n| [x](http://e.vil) |"
    add([tmp_path / "pictures"], tmp_path / "other", Options(source=evil))
    write_layer(tmp_path / "other", "hand", [*given(tmp_path / "other")])
    said = Said("cc0-1.0", 'a "quoted"\n# terms <b>', 'My "set"\n---\nlicense: mit')
    for place in (dataset, tmp_path / "other"):
        write_layer(place, "hand", given(place))
        write_card(place, "hand", tmp_path / f"{place.name}-card", said)
        text = (tmp_path / f"{place.name}-card" / README).read_text(encoding="utf-8")
        assert head(tmp_path / f"{place.name}-card" / README)["license"] == "cc0-1.0"
        assert not any(bad in text for bad in ("<script", "[x](", "<b>", "\nlicense: mit", "\n# terms"))
        assert text.count("\n---\n") == 1
        checked(tmp_path / f"{place.name}-card" / CROISSANT)


def test_words_from_outside_are_one_harmless_line() -> None:
    assert markdown("a|b\n`c` <i>*d*\x1b[1m") == r"a\|b \`c\` &lt;i&gt;\*d\* \[1m"
    assert one_line(" a\u2028b\x00\tc ") == "a b c"


@generated(st.text(max_size=80))
def test_any_text_is_one_yaml_scalar_and_one_table_cell(text: str) -> None:
    assert yaml.safe_load(f"a: {yaml_text(text)}") == {"a": one_line(text)}
    cell = markdown(text)
    assert not re.search(r"[<>\n]|(?<!\\)(?:\\\\)*[|`*_\[\]]", cell)


def test_a_readme_of_the_users_own_is_never_overwritten(told: Path, tmp_path: Path) -> None:
    (tmp_path / "card").mkdir()
    (tmp_path / "card" / README).write_text("mine")
    with pytest.raises(UsageError, match="not written by sharecap"):
        write_card(told, "one", tmp_path / "card", SAID)
    assert (tmp_path / "card" / README).read_text() == "mine"
    write_card(told, "one", tmp_path / "new", SAID)
    write_card(told, "one", tmp_path / "new", Said("mit", "none", "Renamed"))
    (tmp_path / "new" / README).write_text("edited")
    with pytest.raises(UsageError, match="edited since"):
        write_card(told, "one", tmp_path / "new", SAID)


def test_the_command_asks_for_what_only_the_user_knows(told: Path, tmp_path: Path, typed: Typed) -> None:
    words = ["card", told, "--to", tmp_path / "card", "--name", "Mine", "--licence", "cc0-1.0"]
    assert typed(*words)[0] == 2
    code, _, err = typed(*words, "--terms", " ")
    assert (code, "--terms is empty" in err) == (2, True)
    code, out, _ = typed(*words, "--terms", "none")
    assert (code, out.splitlines()) == (0, [str(tmp_path / "card" / n) for n in (README, CROISSANT)])
