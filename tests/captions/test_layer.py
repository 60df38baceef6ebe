"""Layers and statistics: what is sealed stays, what is counted adds up."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import given as given_by_hypothesis
from hypothesis import strategies as st

from sharecap import artifact
from sharecap.captions.in_order import InOrder
from sharecap.captions.layer import layers, only_layer, open_layer, read_layer, write_layer
from sharecap.captions.run import run
from sharecap.captions.stats import opening, stats
from sharecap.errors import SharecapError, UsageError
from sharecap.images.add import add
from sharecap.images.catalog import Catalog

from .conftest import Typed, make_dataset
from .given import given
from .server import Teacher


def test_captions_from_elsewhere_become_a_layer_in_the_catalogs_order(dataset: Path) -> None:
    captions = given(dataset)
    write_layer(dataset, "hand", reversed(captions))
    assert list(read_layer(dataset, "hand")) == captions
    assert (layers(dataset), only_layer(dataset)) == (["hand"], "hand")


def test_the_layers_of_earlier_versions_are_known_by_their_captions_still(dataset: Path) -> None:
    digests = sorted(artifact.key_of("caption", caption, {}) for caption in given(dataset))
    sealed = write_layer(dataset, "hand", reversed(given(dataset)))
    assert sealed.config == {"given": artifact.key_of("captions", digests, {})}
    nothing = write_layer(dataset, "none", [])
    assert nothing.config == {"given": artifact.key_of("captions", [], {})}


@given_by_hypothesis(data=st.data())
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_captions_in_any_order_come_out_in_the_catalogs_as_they_went_in(
    dataset: Path, data: st.DataObject
) -> None:
    words = st.text(min_size=1).filter(str.strip)
    some = data.draw(st.lists(st.sampled_from(given(dataset)), unique_by=lambda c: c.image_id))
    some = [
        replace(
            one,
            text=data.draw(words),
            flags=tuple(data.draw(st.lists(st.text(), max_size=2))),
            cost_usd=n / 7,
        )
        for n, one in enumerate(some)
    ]
    by_id = {caption.image_id: caption for caption in some}
    with InOrder(Catalog.open(dataset)) as ordered:
        assert all(ordered.put(caption) for caption in some)
        assert not any(ordered.put(caption) for caption in some)
        assert len(ordered) == len(some)
        assert [(i.id, c) for i, c in ordered] == [(i.id, by_id.get(i.id)) for i in Catalog.open(dataset)]
        assert all(ordered.text_of(image_id) == caption.text for image_id, caption in by_id.items())


def test_writing_the_same_captions_again_is_skipped_and_others_are_refused(dataset: Path) -> None:
    first = write_layer(dataset, "hand", given(dataset))
    assert write_layer(dataset, "hand", given(dataset)) == first
    with pytest.raises(UsageError, match="choose another name"):
        write_layer(dataset, "hand", given(dataset, "A blue boat."))


def test_an_image_without_a_caption_is_counted(dataset: Path) -> None:
    sealed = write_layer(dataset, "hand", given(dataset)[3:])
    assert (sealed.metrics["captions"], sealed.metrics["failures"]) == (9, {"not_given": 3})


@pytest.mark.parametrize(
    ("change", "says"),
    [({"image_id": "f" * 64}, "lacks"), ({"text": " "}, "empty"), ({}, "two captions")],
)
def test_a_caption_that_cannot_stand_is_an_error_and_no_layer(
    dataset: Path, change: dict[str, str], says: str
) -> None:
    captions = given(dataset)
    wrong = captions if says == "two captions" else captions[1:]
    with pytest.raises(SharecapError, match=says):
        write_layer(dataset, "hand", [*wrong, replace(captions[0], **change)])
    assert layers(dataset) == []
    write_layer(dataset, "hand", captions)


def test_a_folder_of_the_layers_name_that_is_not_ours_is_refused_unasked_and_left_alone(
    dataset: Path, teacher: Teacher
) -> None:
    notes = dataset / "layers" / "mine" / "notes.txt"
    notes.parent.mkdir(parents=True)
    notes.write_text("precious")
    with pytest.raises(UsageError, match="not made by sharecap"):
        run(dataset, f"{teacher.url}#model", "unified", "mine")
    with pytest.raises(UsageError, match="not made by sharecap"):
        write_layer(dataset, "mine", given(dataset))
    assert notes.read_text() == "precious"
    assert not (dataset / "ledger.sqlite").exists()


def test_a_layer_that_is_not_there_is_wrong_usage_that_names_those_that_are(dataset: Path) -> None:
    with pytest.raises(UsageError, match="no layer"):
        only_layer(dataset)
    write_layer(dataset, "hand", given(dataset))
    with pytest.raises(UsageError, match="it has hand"):
        read_layer(dataset, "other")
    write_layer(dataset, "two", given(dataset, "Other."))
    with pytest.raises(UsageError, match="hand, two"):
        only_layer(dataset)


def test_a_sealed_layer_is_an_artifact_that_names_its_catalog(dataset: Path, teacher: Teacher) -> None:
    run(dataset, f"{teacher.url}#model", "unified", "one")
    sealed = open_layer(dataset, "one")
    assert sealed.inputs == {"catalog": Catalog.open(dataset).digest}
    assert sealed.config["pack"] == "unified@1"
    assert sealed.digest == artifact.files_digest(sealed.path)


def test_statistics_add_up(tmp_path: Path, teacher: Teacher) -> None:
    dataset = make_dataset(tmp_path, 10)
    add([tmp_path / "pictures" / "coco" / "0000.png"], dataset)  # known already
    ids = [image.id for image in Catalog.open(dataset)]
    told = {ids[0]: "refusal", ids[1]: "say=A dog.", ids[2]: "say=A dog."}
    teacher.script = lambda seen: told.get(seen.image, "ok")
    run(dataset, f"{teacher.url}#model", "sharegpt4v", "one", concurrency=1)
    found = stats(dataset, "one").as_json()
    texts = [caption.text for caption in read_layer(dataset, "one")]
    assert (found["images"], found["captions"], found["failures"]) == (10, 9, {"refusal": 1})
    assert found["words_mean"] == sum(len(t.split()) for t in texts) / 9
    assert found["characters_mean"] == sum(map(len, texts)) / 9
    assert (found["words_min"], found["repeated"]) == (2, 1)
    assert found["openings"] == [
        {"words": "a picture that", "captions": 7},
        {"words": "a dog", "captions": 2},
    ]
    assert found["sources"] == {"coco": {k: found[k] for k in found["sources"]["coco"]}}
    answers = len(teacher.log)
    assert (found["prompt_tokens"], found["completion_tokens"]) == (100 * answers, 50 * answers)


def test_means_over_nothing_are_no_numbers(dataset: Path) -> None:
    write_layer(dataset, "none", [])
    assert stats(dataset, "none").as_json()["words_mean"] is None


def test_an_opening_is_the_first_words() -> None:
    assert opening("“In the picture,” he said") == "in the picture"
    assert opening("Cat") == "cat"


def test_the_command_line_goes_from_images_to_rows(tmp_path: Path, teacher: Teacher, typed: Typed) -> None:
    dataset, spec = make_dataset(tmp_path, 5), f"{teacher.url}#my model"
    _, out, _ = typed("caption", dataset, "--teacher", spec, "--dry-run", "--price", "1,2")
    assert "5 requests for 5 images" in out
    assert "cost: at most $" in out
    code, out, err = typed("caption", dataset, "--teacher", spec, "--budget", "1", "--price", "1,2")
    assert (code, layers(dataset)) == (0, ["my-model-sharegpt4v"])
    assert "captioned 5/5" in err
    assert "5 captions of 5 images" in out
    assert "coco" in typed("stats", dataset)[1]
    assert json.loads(typed("stats", dataset, "--json")[1])["captions"] == 5
    rows = tmp_path / "rows.json"
    assert "5 rows" in typed("export", dataset, "--out", rows, "--format", "llava")[1]
    assert len(json.loads(rows.read_text())) == 5


STOPS = {
    "401": (1, "OPENAI_API_KEY"),
    "404": (1, "model 'm'"),
    "refusal": (3, "20 of the last 20 answers"),
}


@pytest.mark.parametrize("fault", STOPS)
def test_a_run_that_stops_says_why_in_one_line(
    tmp_path: Path, teacher: Teacher, typed: Typed, fault: str
) -> None:
    code, says = STOPS[fault]
    teacher.script = lambda _: fault
    dataset = make_dataset(tmp_path, 20)
    exit_code, out, err = typed("caption", dataset, "--teacher", f"{teacher.url}#m", "--concurrency", 1)
    errors = [line for line in err.splitlines() if line.startswith("sharecap: ")]
    assert (exit_code, out, len(errors)) == (code, "", 1)
    assert says in errors[0]
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--teacher", "nonsense"], "unknown teacher"),
        (["--prompts", "nonsense"], "no such prompt pack"),
        (["--prompts", "scenes"], "no prompt for source 'coco'"),
        (["--budget", "5"], "--price IN,OUT"),
        (["--price", "cheap"], "not a price"),
        (["--layer", "../x"], "not a layer name"),
        (["--layer", "teacher.claims"], "tell what a judge says of a layer"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    dataset: Path, teacher: Teacher, typed: Typed, words: list[str], says: str
) -> None:
    code, out, err = typed("caption", dataset, "--teacher", f"{teacher.url}#m", *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert says in err
    assert teacher.log == []
