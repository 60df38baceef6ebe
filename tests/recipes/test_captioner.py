"""Captioners: who is held out, what is learned, what the command says, and what a curve foretells."""

import json
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sharecap.artifact import read
from sharecap.captions.gates import GATES
from sharecap.captions.layer import read_layer, write_layer
from sharecap.captions.prompts import load_pack
from sharecap.errors import UsageError
from sharecap.images.add import add
from sharecap.images.catalog import Catalog
from sharecap.model import folder
from sharecap.model.build import Llava
from sharecap.model.generation import Reply
from sharecap.recipes import captioner
from sharecap.recipes.captioner import Asked, lines_of, make_captioner, recipe, split
from sharecap.recipes.captioner_curve import doubled, likenesses
from sharecap.records import Caption, Usage
from tests.captions.conftest import Typed, typed  # noqa: F401 - a fixture
from tests.model.tiny import tiny_llava

SOURCES = ("coco", "web")
ENDS = {"coco": "Is it Yes?", "web": "Is it No?"}  # names, which a model can guess at best
QUICK = ("--set", "steps=40", "--set", "epochs=none", "--set", "batch_rows=8", "--set", "eval_every=20")
QUICK = (*QUICK, "--set", "rules.language.learning_rate=1e-2", "--set", "precision=fp32")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of 80 pictures in two sources, each once more as a JPEG, all captioned; a model."""
    root = tmp_path_factory.mktemp("captioner")
    for n in range(80):
        levels = np.random.default_rng(n).integers(0, 255, (4, 4, 3), dtype=np.uint8)
        picture = Image.fromarray(levels).resize((64, 64), Image.Resampling.BICUBIC)
        for ending in ("png", "jpg"):
            path = root / "pictures" / SOURCES[n % 2] / f"{n:02}.{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path, quality=95)
    add([root / "pictures"], root / "dataset")
    captions = (
        Caption(
            image.id,
            "teacher",
            f"There is a red circle, and {Path(image.path).name[:2]} blue squares above it. "
            f"{ENDS[image.source]}",
            "by hand",
            "-",
            "stop",
            cost_usd=0.01,
        )
        for image in Catalog.open(root / "dataset")
    )
    write_layer(root / "dataset", "teacher", captions)
    folder.save(tiny_llava(root), root / "model")
    return root


def asked(place: Path, **changes: object) -> Asked:
    return Asked(place / "dataset", "teacher", load_pack("unified"), held_out=0.2, **changes)  # type: ignore[arg-type]


def test_copies_of_a_picture_are_held_out_together(place: Path) -> None:
    found = split(asked(place))
    learned, out = ({pair.file.name[:2] for pair in part} for part in (found.learned, found.held_out))
    assert not learned & out
    assert len(learned | out) == 80
    assert len(found.learned) + len(found.held_out) == 160
    assert 8 <= len(out) <= 24  # 16 are expected of 80
    assert found.spent_usd == pytest.approx(0.01 * len(found.learned))


def test_a_smaller_share_is_part_of_a_larger_one_and_never_of_what_is_held_out(place: Path) -> None:
    names = [
        {pair.image.id for pair in split(asked(place, share=share)).learned}
        for share in (0.125, 0.25, 0.5, 1.0)
    ]
    held_out = {pair.image.id for pair in split(asked(place, share=0.125)).held_out}
    assert held_out == {pair.image.id for pair in split(asked(place)).held_out}
    for small, large in pairwise(names):
        assert small < large
    assert not names[-1] & held_out
    assert {p.image.id for p in split(asked(place, seed=1)).held_out} != held_out


def test_the_few_that_are_looked_at_are_of_all_sources(place: Path) -> None:
    first = split(asked(place)).held_out[:12]  # in the catalog one source comes after the other
    assert {pair.image.source for pair in first} == set(SOURCES)


def test_it_learns_what_it_will_be_asked(place: Path) -> None:
    pair = split(asked(place)).learned[0]
    prompt = load_pack("unified").render(pair.image).text
    assert pair.row().turns[0].text == f"<image>\n{prompt}"
    each = split(asked(place, each_length=True)).learned[0]
    assert each.prompt == load_pack("unified").with_options(words=10).render(pair.image).text != prompt


def test_pictures_that_have_gone_are_counted(place: Path) -> None:
    gone = split(asked(place)).learned[0].file
    gone.rename(gone.with_suffix(".away"))
    try:
        found = split(asked(place))
    finally:
        gone.with_suffix(".away").rename(gone)
    assert found.left_out == {"missing": 1}
    assert len(found.learned) + len(found.held_out) == 159


def test_the_paper_s_half_of_any_tower_learns_by_default(place: Path) -> None:
    rules = recipe(place / "model").stage("captioner").train.rules
    assert [(rule.part, rule.from_block) for rule in rules] == [
        ("vision", 2),
        ("projector", 0),
        ("language", 0),
    ]
    with pytest.raises(UsageError, match="not a vision-language model"):
        recipe(place / "dataset")


@pytest.mark.parametrize(
    ("part", "values"),
    [
        ("vision_config", {"num_hidden_layers": "many"}),
        ("text_config", {"vocab_size": []}),
        ("model_type", 7),
    ],
)
def test_a_model_with_odd_values_in_its_configuration_is_one_clear_line(
    place: Path, tmp_path: Path, part: str, values: object
) -> None:
    config = json.loads((place / "model/config.json").read_text())
    config[part] = config[part] | values if isinstance(values, dict) else values
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="not a vision-language model's directory") as caught:
        recipe(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_directory_that_is_not_there_is_never_asked_for_at_the_hub(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(captioner.AutoConfig, "from_pretrained", lambda *_: pytest.fail("asked for"))
    with pytest.raises(UsageError, match=r"no such model directory: nobody/nowhere\. give the directory"):
        recipe(Path("nobody/nowhere"))


def test_train_then_caption_with_what_was_trained(place: Path, typed: Typed) -> None:  # noqa: F811
    words = ("captioner", "train", place / "dataset", "teacher", "--from", place / "model")
    words = (*words, "--to", place / "made", "--held-out", "0.2", "--wrong-names", "0.3", *QUICK)
    code, out, err = typed(*words, "--json")
    assert code == 0, err
    made = json.loads(out)
    names = made["names"]
    assert names["given"] >= names["kept"] >= 0
    assert names["kept_invented"] <= 0.3 * names["kept"]
    assert (
        json.loads((place / "made/all/model/sharecap.json").read_text())["names_at_least"] == names["least"]
    )
    assert made["steps"] == 40
    assert made["captions"] + made["held_out"] == 160
    assert set(made["quality"]) == {"all", *SOURCES}
    assert made["held_out_quality"] <= 1
    best = read(place / "made/all")
    lines = [json.loads(line) for line in (best.path / "held_out.jsonl").read_text().splitlines()]
    assert len(lines) == made["held_out"]
    assert [x["likeness"] for x in lines] == sorted(x["likeness"] for x in lines)
    mean = np.mean([x["likeness"] for x in lines])
    assert mean == pytest.approx(made["quality"]["all"]["value"], abs=1e-4)
    again = typed(*words, "--json")
    assert again[0] == 0
    assert json.loads(again[1]) == made  # found, not made anew
    code, _, err = typed(*words, "--set", "batch_rows=4")
    assert code == 2
    assert "choose another --to" in err
    teacher = f"local:{place / 'made/all/model'}"
    accept = [word for gate in GATES for word in ("--accept", gate)]
    code, _, err = typed(
        "caption",
        place / "dataset",
        "--teacher",
        teacher,
        "--prompts",
        "unified",
        "--layer",
        "own",
        "--max-tokens",
        64,
        *accept,
    )
    assert code == 0, err
    said = {caption.image_id: caption.text for caption in read_layer(place / "dataset", "own")}
    ended = [line for line in lines if line["finish_reason"] == "stop"]
    assert len(ended) > len(lines) / 2
    assert all(said[line["image"]] == line["captioner"] for line in ended)


def test_what_is_held_out_is_captioned_on_the_gpu_where_there_is_one(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(_c: object, llava: Llava, _r: object, to: Path, *_: object, **__: object) -> object:
        folder.save(llava, to / "model")
        return {"steps": 1, "best_step": 1}

    moved: list[object] = []

    def move(model: torch.nn.Module, *where: object, **_: object) -> torch.nn.Module:
        moved.append(where[0])
        return model

    monkeypatch.setattr(captioner, "train", train)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.nn.Module, "to", move)
    made = make_captioner(asked(place), recipe(place / "model"), tmp_path, lambda _: nullcontext(None))
    assert made.metrics["held_out"] > 0
    assert moved == ["cuda"]


def test_a_curve_of_four_captioners_with_a_picture(place: Path, typed: Typed) -> None:  # noqa: F811
    words = ("captioner", "curve", place / "dataset", "teacher", "--from", place / "model")
    given = ("--held-out", "0.2", "--wrong-names", "0.3")
    code, out, err = typed(*words, "--to", place / "made", *given, *QUICK)
    assert code == 0, err
    assert {path.name for path in (place / "made").iterdir()} >= {"0.125", "0.25", "0.5", "all", "curve.png"}
    found = json.loads((place / "made/curve.json").read_text())
    counts = [point["captions"] for point in found["points"]]
    assert counts == sorted(counts)
    assert found["points"][-1]["quality"] == read(place / "made/all").metrics["quality"]
    assert found["next"][0]["source"] == "all"
    assert found["next_usd"] == pytest.approx(0.01 * counts[-1])
    assert f"{counts[0]:,}" in out
    assert Image.open(place / "made/curve.png").size[0] > 300


def test_doubling_follows_a_power_of_the_number_of_captions() -> None:
    captions = [100, 200, 400, 800]
    quality = 1 - 0.8 * np.array(captions) ** -0.25
    expected = (1 - 0.8 * 1600**-0.25) - quality[-1]
    assert doubled(captions, quality) == pytest.approx(expected)
    assert doubled(captions, np.array([0.5] * 4)) == pytest.approx(0)
    assert doubled(captions, np.ones(4)) == pytest.approx(0)


def test_likenesses_are_read_whatever_the_captions_hold(place: Path, tmp_path: Path) -> None:
    pair = split(asked(place)).held_out[0]
    odd = replace(pair, caption=replace(pair.caption, text="A\u2028red\u2029circle\u0085and\x1cone.\n"))
    (tmp_path / "held_out.jsonl").write_text("".join(lines_of([odd], [Reply("A\u2028", "stop", Usage())])))
    assert likenesses(tmp_path / "held_out.jsonl") == {pair.image.id: ("coco", pytest.approx(0, abs=1))}


def test_a_layer_that_is_too_small_to_hold_out_is_refused(place: Path, typed: Typed) -> None:  # noqa: F811
    first = next(iter(Catalog.open(place / "dataset")))
    write_layer(place / "dataset", "one", [Caption(first.id, "one", "A star.", "by hand", "-", "stop")])
    words = ("captioner", "train", place / "dataset", "one", "--from", place / "model", "--to", place / "x")
    code, _, err = typed(*words)
    assert code == 2
    assert "1 captions to learn from and 0 held out" in err


def test_a_pack_may_tell_it_each_picture_s_source(place: Path, tmp_path: Path) -> None:
    pack = '[default]\nprompt = "Describe this picture from {source}."\n'
    (tmp_path / "tagged.toml").write_text(f'name = "tagged"\nversion = "1"\n{pack}')
    found = split(Asked(place / "dataset", "teacher", load_pack(str(tmp_path / "tagged.toml")), held_out=0.2))
    asked_for = {pair.image.source: pair.prompt for pair in found.learned}
    assert set(asked_for) == set(SOURCES)
    for source, prompt in asked_for.items():  # between marks, as all that comes with a picture
        assert prompt.startswith(f"Describe this picture from <<<{source}>>>.")
