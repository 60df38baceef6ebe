"""CHAIR over layers: images are found among the labels by name, and mentions are counted as pairs."""

import json
from pathlib import Path

import pytest

from sharecap.captions.objects import Vocabulary, read_objects, read_vocabulary
from sharecap.errors import SharecapError
from sharecap.quality.chair import CHAIR, Chair
from sharecap.quality.measure import measure
from sharecap.records import Image
from tests.evals.scored import lines, scored
from tests.quality.layered import Plain, dataset_of

VOCABULARY = Vocabulary({"dog": "dog", "puppy": "dog", "chair": "chair", "man": "person"})


def image(path: str = "/x/000000000012.jpg", member: str = "", url: str = "") -> Image:
    return Image("0" * 64, "coco", path, 8, 8, "JPEG", 9, "0" * 16, member=member, url=url)


@pytest.mark.parametrize(
    ("named", "key"),
    [
        (image(), "12"),
        (image("/x/COCO_val2014_000000000012.jpg"), "12"),
        (image("/x/12.png"), "12"),
        (image("/x/shard.tar", member="a/000000000012.jpg"), "12"),
        (image("/x/downloads/ab.bin", url="http://a.example/000000000012.jpg?size=3"), "12"),
        (image("/x/living room.jpg"), "living room"),
        (image("/x/000000000000.jpg"), "0"),
        (image("/x/000.jpg"), None),
        (image("/x/0012.jpg"), None),
        (image("/x/DSC_0012.jpg"), None),
        (image("/x/IMG-2024-12.jpg"), None),
        (image("/x/photo12.png"), None),
        (image("/x/a000000000012.png"), None),
        (image("/x/12th.jpg"), None),
    ],
)
def test_labels_are_found_by_the_names_of_files(named: Image, key: str | None) -> None:
    assert Chair(VOCABULARY, {"12": [], "living room": [], "0": []}).label(named) == key


def test_wrong_mentions_wrong_captions_and_recall_are_pairs() -> None:
    chair = Chair(VOCABULARY, {"12": ["dog", "person"]})
    found = chair.pairs(image(), "A puppy, a dog and a chair")
    assert found == {"chair_i": (1, 3), "chair_s": (1.0, 1), "object_recall": (1, 2)}
    assert chair.pairs(image(), "Nothing") == {
        "chair_i": (0, 0),
        "chair_s": (0.0, 1),
        "object_recall": (0, 2),
    }
    assert chair.pairs(image("/x/9.jpg"), "A dog") == {}


def test_the_figures_are_those_of_the_benchmark(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "synonyms.txt").write_text("dog, puppy\nchair, seat\ncat\n")
    objects = {"0000": ["dog"], "0001": ["chair", "cat"], "0002": ["cat"]}
    (tmp_path / "labels" / "objects.json").write_text(json.dumps(objects))
    texts = ["A puppy on a chair and a dog", "Two seats and no dogs", "A cat"]
    dataset = dataset_of(tmp_path, 3, one=texts)
    (column,) = measure(dataset, ["one"], Plain(), chair=Chair.read(tmp_path / "labels")).columns
    rows = [{"image_id": f"{n:04}", "caption": text} for n, text in enumerate(texts)]
    published = scored("chair", lines(tmp_path / "p.jsonl", rows), tmp_path / "labels")["sub"]
    ours = [column.measures[name].value for name in CHAIR]
    assert ours == [published[name] for name in ("CHAIRi", "CHAIRs", "Recall")]
    assert ours == [2 / 6, 2 / 3, 3 / 4]


def test_labels_are_read_from_a_directory_or_one_file(tmp_path: Path) -> None:
    (tmp_path / "synonyms.txt").write_text("dog, puppy\n")
    (tmp_path / "val_objects.json").write_text('{"12": ["dog", "dog"]}')
    for place in (tmp_path, tmp_path / "val_objects.json"):
        assert Chair.read(place).objects == {"12": ["dog"]}
    with pytest.raises(SharecapError, match=r"no CHAIR labels: .*nowhere\. give the directory"):
        Chair.read(tmp_path / "nowhere")
    (tmp_path / "more_objects.json").write_text("{}")
    with pytest.raises(SharecapError, match="2 files with 'objects' in their name, expected one"):
        Chair.read(tmp_path)


@pytest.mark.parametrize("content", [[], {"1": "dog"}, {"1": [{"a": 1}]}, {"1": [None]}])
def test_labels_of_another_form_are_refused(tmp_path: Path, content: object) -> None:
    (tmp_path / "objects.json").write_text(json.dumps(content))
    with pytest.raises(SharecapError, match="expected lists of object names by image id"):
        read_objects(tmp_path / "objects.json")


def test_tables_that_are_none_are_named(tmp_path: Path) -> None:
    (tmp_path / "synonyms.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(SharecapError, match=r"cannot read .*synonyms\.txt"):
        read_vocabulary(tmp_path)
    (tmp_path / "synonyms.txt").write_text("dog")
    (tmp_path / "singularize_table.json").write_text('["dogs"]')
    with pytest.raises(SharecapError, match="expected a JSON object, plural to singular"):
        read_vocabulary(tmp_path)
    for text in ("{", "[" * 100_000):
        (tmp_path / "singularize_table.json").write_text(text)
        with pytest.raises(SharecapError, match="not JSON"):
            read_vocabulary(tmp_path)
