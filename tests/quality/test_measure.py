"""`sharecap quality`: layers side by side, paired where they can be, and a score for every caption."""

import json
from pathlib import Path

import pytest
from PIL import Image

from sharecap.errors import SharecapError, UsageError
from sharecap.images.add import add
from sharecap.images.catalog import Catalog
from sharecap.images.dataset import held
from sharecap.quality import measure as module
from sharecap.quality.chair import Chair
from sharecap.quality.measure import measure
from sharecap.quality.scores import read_scores, scores_path
from sharecap.web.building import build
from sharecap.web.index import Index
from sharecap.web.query import Finder, Query
from tests.quality.layered import Plain, add_layer, dataset_of, ids_of, small_model, typed

LONG = "A dog sleeps on the old red sofa while a cat sits beside it. It rains outside."
SHORT = "A dog sleeps."


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Six images; `short` lacks the last, `loop` says one thing over and over."""
    return dataset_of(
        tmp_path,
        6,
        long=[f"{LONG} There are {n} toys." for n in range(2, 8)],
        short=[*[f"{SHORT} It is number {n}." for n in range(5)], None],
        loop=["a dog, " * 9] * 6,
    )


def chair_labels(folder: Path, objects: dict[int, list[str]]) -> Path:
    """Labels for the images at these places, named as their files are."""
    labels = folder / "labels"
    labels.mkdir()
    (labels / "synonyms.txt").write_text("dog, puppy\ncat\ncouch, sofa\n")
    (labels / "objects.json").write_text(json.dumps({f"{n:04}": names for n, names in objects.items()}))
    return labels


def test_layers_stand_side_by_side_and_are_compared_on_the_images_of_both(dataset: Path) -> None:
    long, short = measure(dataset, ["long", "short"], Plain()).columns
    assert (long.captions, long.missing, short.captions, short.missing) == (6, 0, 5, 1)
    assert long.measures["words"].value == 21
    assert short.measures["words"].value == 7
    assert short.in_both == 5
    assert short.minus_first["words"].value == -14
    assert long.minus_first == {}
    assert long.measures["nouns"].value == pytest.approx(20 / 21)  # the number is one, signs are none


def test_each_source_stands_apart_and_together_they_are_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for source, numbers in (("coco", range(4)), ("web", range(4, 6))):
        (tmp_path / "pictures" / source).mkdir(parents=True)
        for n in numbers:
            Image.new("RGB", (8, 8), (n, 0, 0)).save(tmp_path / "pictures" / source / f"{n}.png")
    dataset = tmp_path / "two"
    add([tmp_path / "pictures"], dataset)
    images = list(Catalog.open(dataset))
    texts = {image.id: LONG if image.source == "coco" else SHORT for image in images}
    add_layer(dataset, "mixed", [texts[image.id] for image in images])
    add_layer(dataset, "some", [LONG if image.source == "coco" else None for image in images])
    found = measure(dataset, ["mixed", "some"], Plain(), by_source=True)
    coco, web = found.sources
    assert [(part.source, part.images) for part in found.sources] == [("coco", 4), ("web", 2)]
    assert [coco.measures[0]["words"].value, web.measures[0]["words"].value] == [17, 3]
    assert [set(web.measures[1]), coco.measures[1]["words"].value] == [set(), 17]
    assert found.columns[0].measures["words"].value == pytest.approx((4 * 17 + 2 * 3) / 6)
    assert measure(dataset, ["mixed"], Plain()).sources == []
    told = typed("quality", dataset, "mixed", "some", "--by-source", "--tagger", "textblob").output
    assert "source web: 2 images" in told
    assert "other sources" not in told
    monkeypatch.setattr("sharecap.quality.measure.MOST_SOURCES", 1)
    told = typed("quality", dataset, "mixed", "some", "--by-source", "--tagger", "textblob").output
    assert "source web" not in told
    assert "other sources: 2 images, too few in each to measure apart" in told


def test_a_difference_that_none_of_six_images_shows_otherwise_is_marked(dataset: Path) -> None:
    told = typed("quality", dataset, "long", "loop", "short", "--tagger", "textblob").output
    (line,) = [line for line in told.splitlines() if line.startswith("characters")]
    assert "]*" in line
    assert line.split()[-1] == "29.0"  # five images of both could all differ alike by chance
    assert "words tagged by textblob" in told
    assert "short 5" in told
    assert "long begins: 'a dog sleeps' 5" in told


def test_captions_of_every_layer_are_compared_in_equal_number(dataset: Path) -> None:
    columns = measure(dataset, ["long", "short", "loop"], Plain()).columns
    assert [column.together.captions for column in columns] == [5, 5, 5]
    assert columns[2].together.similarity == 1.0
    assert columns[2].together.different_openings == 1


def test_the_sample_is_of_the_same_images_for_every_layer(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SAMPLE", 2)
    whole = dict(zip(ids_of(dataset), [f"opening {n} here" for n in range(6)], strict=True))
    add_layer(dataset, "a", list(whole.values()))
    add_layer(dataset, "b", list(whole.values()))
    a, b = measure(dataset, ["a", "b"], Plain()).columns
    assert a.together == b.together
    assert a.together.captions == 2


def test_every_caption_has_a_score_that_the_page_sorts_by(dataset: Path) -> None:
    measure(dataset, ["loop", "short"], Plain())
    found = {one.image_id: one for one in read_scores(scores_path(dataset, "loop"))}
    assert list(found) == ids_of(dataset)
    assert all(one.by == "distinct_2" and one.score == pytest.approx(2 / 17) for one in found.values())
    assert len(list(read_scores(scores_path(dataset, "short")))) == 5
    build(dataset)
    shown = Finder(Index(dataset, lambda _: None))
    assert shown.count(Query("loop", score_to=0.2)) == 6
    assert shown.count(Query("short", score_to=0.2)) == 0


def test_chair_is_measured_where_labels_are(dataset: Path, tmp_path: Path) -> None:
    labels = chair_labels(tmp_path, {0: ["dog", "cat"], 1: ["dog", "cat", "couch"]})
    found = measure(dataset, ["long", "short"], Plain(), chair=Chair.read(labels))
    long, short = found.columns
    assert found.labelled == 2
    # The sofa is wrong in the first image: one of six mentions, one of two captions.
    assert long.measures["chair_i"].value == pytest.approx(1 / 6)
    assert long.measures["chair_s"].value == 0.5
    assert long.measures["object_recall"].value == 1.0
    assert short.measures["object_recall"].value == pytest.approx(2 / 5)
    scored = [one.score for one in read_scores(scores_path(dataset, "long"))]
    assert scored == [pytest.approx(1 / 3), 0.0, None, None, None, None]


def test_labels_of_other_images_are_an_error_and_leave_no_scores(dataset: Path, tmp_path: Path) -> None:
    chair = Chair.read(chair_labels(tmp_path, {77: ["dog"]}))
    with pytest.raises(UsageError, match="the CHAIR labels are of none of these images"):
        measure(dataset, ["long"], Plain(), chair=chair)
    assert not list((dataset / "scores").iterdir())


def test_the_user_chooses_the_score(dataset: Path) -> None:
    assert measure(dataset, ["long"], Plain(), score="words").score == "words"
    assert [one.score for one in read_scores(scores_path(dataset, "long"))] == [21] * 6
    with pytest.raises(UsageError, match=r"no such measure here: chair_i\. choose one of words"):
        measure(dataset, ["long"], Plain(), score="chair_i")


def test_layers_that_are_not_there_or_come_twice_are_wrong_usage(dataset: Path) -> None:
    with pytest.raises(UsageError, match="no finished layer 'none'"):
        measure(dataset, ["long", "none"], Plain())
    with pytest.raises(UsageError, match="a layer is named twice"):
        measure(dataset, ["long", "long"], Plain())


def test_nothing_is_written_while_another_command_writes(dataset: Path) -> None:
    with held(dataset), pytest.raises(SharecapError, match="another command is writing here"):
        measure(dataset, ["long"], Plain())


def test_a_layer_without_captions_has_counts_and_no_numbers(dataset: Path) -> None:
    add_layer(dataset, "empty", [None] * 6)
    told = typed("quality", dataset, "long", "empty", "--tagger", "textblob")
    assert told.exit_code == 0, told.exception
    (line,) = [line for line in told.output.splitlines() if line.startswith("nouns")]
    assert line.split()[-1] == "-"


def test_json_holds_intervals_and_differences(dataset: Path) -> None:
    told = typed("quality", dataset, "long", "short", "--tagger", "textblob", "--json")
    found = json.loads(told.stdout)
    assert found["columns"][1]["minus_first"]["words"]["value"] == -14
    assert found["tagger"].startswith("textblob")
    assert {"low", "high", "value"} == set(found["columns"][0]["measures"]["nouns"])


def test_with_a_spacy_model_the_output_says_how_far_textblob_agrees(dataset: Path, tmp_path: Path) -> None:
    model = small_model(tmp_path, {"dog": "NN", "sleeps": "VBZ", "a": "DT", "it": "PRP", "is": "VBZ"})
    told = typed("quality", dataset, "short", "--tagger", model)
    assert told.exit_code == 0, told.exception
    assert "words tagged by spaCy" in told.output
    # Of seven words they differ on "number" alone: the model made by hand has no tag for it.
    assert "textblob agrees on 85.7 % of 35 words" in told.output


def test_hostile_captions_are_measured_and_steer_no_terminal(tmp_path: Path) -> None:
    texts = [
        "\x1b[2J <script> {0} %s",
        "’’’ ''' ...",
        "\u202edog",
        "x" * 20_000,
        "1" * 5_000,
        "😀 😀",
        "猫がいる。",
    ]
    dataset = dataset_of(tmp_path, len(texts), odd=texts)
    told = typed("quality", dataset, "odd", "--tagger", "textblob")
    assert told.exit_code == 0, told.exception
    assert "\x1b" not in told.output
    assert "\u202e" not in told.output
