"""CHAIR: which objects a caption mentions, and shares of wrong mentions that are ratios of sums."""

import json
from pathlib import Path

import pytest

from sharecap.captions.objects import Vocabulary, read_vocabulary, singular
from sharecap.errors import SharecapError
from tests.evals.scored import lines, scored, whole

SYNONYMS = (
    "person, man, woman, baby\nchair, seat\ntoilet\ndog, puppy\nwine glass\ntrain\nbus\ncake,  cheesecake\n"
)


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    (tmp_path / "synonyms.txt").write_text(SYNONYMS)
    whole(tmp_path / "coco_objects.json", {"1": ["dog", "person"], "2": ["toilet"], "3": []})
    return tmp_path


@pytest.mark.parametrize(
    ("caption", "objects"),
    [
        ("A man and two women.", ["person", "person"]),
        ("A baby dog near a baby", ["dog", "person"]),
        ("A toilet with its seat up", ["toilet"]),
        ("A toilet seat", ["toilet"]),
        ("Two wine glasses on a glass table", ["wine glass"]),
        ("A passenger train, a train track", ["train"]),
        ("The man's puppies", ["person", "dog"]),
        ("A cheesecake", []),  # the original's table has a space before it
        ("A dogma", []),
        ("", []),
    ],
)
def test_a_caption_mentions_objects_by_any_of_their_names(
    labels: Path, caption: str, objects: list[str]
) -> None:
    assert read_vocabulary(labels).objects(caption) == objects


@pytest.mark.parametrize(
    ("plural", "one"),
    [
        *(
            ("buses", "bus"),
            ("benches", "bench"),
            ("knives", "knife"),
            ("leaves", "leaf"),
            ("babies", "baby"),
        ),
        *(("policemen", "policeman"), ("children", "child"), ("geese", "goose"), ("sheep", "sheep")),
        *(
            ("ties", "ty"),
            ("glass", "glas"),
            ("sandwiches", "sandwich"),
            ("movies", "movie"),
            ("dogs", "dog"),
        ),
    ],
)
def test_singulars_are_those_of_the_original_with_its_slips(plural: str, one: str) -> None:
    assert singular(plural) == one


def test_the_table_beside_the_vocabulary_goes_before_the_rules() -> None:
    assert Vocabulary({"tie": "tie"}, {"ties": "tie"}).objects("two ties") == ["tie"]


def test_hallucinations_are_counted_per_mention_and_per_caption(labels: Path) -> None:
    rows = [
        {"image_id": 1, "caption": "A man, a dog, a chair and a chair"},
        {"image_id": 2, "text": "A toilet"},
        {"image_id": 3, "text": "Nothing to see"},
    ]
    found = scored("chair", lines(labels / "p.jsonl", rows), labels)
    assert found["score"] == 2 / 5
    assert found["sub"] == {
        "CHAIRi": 2 / 5,
        "CHAIRs": pytest.approx(1 / 3),
        "Recall": 1.0,
        "avg_words": pytest.approx((9 + 2 + 3) / 3),
    }


def test_no_object_at_all_withholds_the_score(labels: Path) -> None:
    found = scored("chair", lines(labels / "p.jsonl", [{"image_id": 1, "caption": "blue"}]), labels)
    assert (found["score"], found["withheld"]) == (None, "no caption mentions an object")


def test_captions_of_other_images_and_missing_tables_are_named(labels: Path) -> None:
    path = lines(labels / "p.jsonl", [{"image_id": 9, "caption": "a dog"}])
    with pytest.raises(SharecapError, match=r"1 of 1 images are not among the labels \(first: 9\)"):
        scored("chair", path, labels)
    lines(path, [{"image_id": 1, "caption": "a dog"}] * 2)
    with pytest.raises(SharecapError, match="item 1 appears twice"):
        scored("chair", path, labels)
    (labels / "synonyms.txt").unlink()
    lines(path, [{"image_id": 1, "caption": "a dog"}])
    with pytest.raises(SharecapError, match=r"no synonyms\.txt"):
        scored("chair", path, labels / "coco_objects.json")


def test_an_empty_caption_mentions_nothing_and_counts_and_a_null_is_refused(labels: Path) -> None:
    rows = [{"image_id": 1, "caption": "A man and a chair"}, {"image_id": 2, "caption": ""}]
    found = scored("chair", lines(labels / "p.jsonl", rows), labels)
    assert found["sub"] == {"CHAIRi": 0.5, "CHAIRs": 0.5, "Recall": pytest.approx(1 / 3), "avg_words": 2.5}
    rows[1]["caption"] = None
    with pytest.raises(SharecapError, match=r"1 of 2 images have no caption.*a null is none"):
        scored("chair", lines(labels / "p.jsonl", rows), labels)


@pytest.mark.parametrize("indent", [None, 1])
def test_the_original_s_own_file_of_captions_is_read(labels: Path, indent: int | None) -> None:
    content = {"overall": {"CIDEr": 1.0}, "imgToEval": {"1": {"image_id": 1, "caption": "A dog, a chair"}}}
    path = labels / "p.json"
    path.write_text(json.dumps(content, indent=indent))
    assert scored("chair", path, labels)["sub"]["CHAIRi"] == 0.5
    del content["imgToEval"]["1"]["image_id"]
    assert scored("chair", whole(path, content), labels)["sub"]["CHAIRi"] == 0.5


@pytest.mark.parametrize(
    "name", ["000000000001", "000000000001.jpg", "COCO_val2014_000000000001.jpg", "1", 1, 1.0]
)
def test_an_image_is_known_by_its_number_in_every_form(labels: Path, name: object) -> None:
    path = lines(labels / "p.jsonl", [{"image_id": name, "caption": "A dog"}])
    assert scored("chair", path, labels)["score"] == 0
    whole(labels / "coco_objects.json", {"000000000001.jpg": ["dog"]})
    assert scored("chair", path, labels)["score"] == 0
