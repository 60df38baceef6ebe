"""`sharecap train`: stages as finished directories that are never done twice and never overwritten."""

import json
import re
import shutil
import threading
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from typer.testing import CliRunner

from sharecap.artifact import file_digest, files_digest, read, stage
from sharecap.cli import app, training
from sharecap.data.check import REASONS
from sharecap.data.rows import read_rows, write_rows
from sharecap.errors import SharecapError, UsageError
from sharecap.images.dataset import held
from sharecap.model.folder import load
from sharecap.recipes import run as running
from sharecap.recipes.run import follow
from sharecap.train.config import Bad
from tests.model.tiny_qwen import qwen_folder
from tests.recipes.rows import quick, user_folder


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return user_folder(tmp_path_factory.mktemp("user"))


def train(user: Path, to: Path, *more: str, settings: list[str] | None = None, curves: bool = False) -> Any:
    """Run the command; its results, or its error. Curves, which take seconds, are drawn if asked."""
    words = ["train", "tiny", "--data", str(user / "rows"), "--to", str(to), "--json", *more]
    for setting in quick(user) if settings is None else settings:
        words += ["--set", setting]
    with pytest.MonkeyPatch.context() as patch:
        if not curves:
            patch.setattr(training, "drawn", lambda *_: None)
        done = CliRunner().invoke(app, words)
    if isinstance(done.exception, SharecapError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def trained(user: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    to = tmp_path_factory.mktemp("trained")
    train(user, to, curves=True)
    return to


def test_the_curves_of_all_stages_are_on_a_page_beside_them(trained: Path) -> None:
    page = (trained / "report.html").read_text(encoding="utf-8")
    places = [page.index(f">{stage}</h2>") for stage in ("align", "pretrain", "sft")]
    assert places == sorted(places)
    for measure in ("Rates", "Gradient norms", "MFU", "Memory"):
        assert page.count(f'aria-label="{measure}"') == 3


def test_three_stages_leave_three_models_each_made_from_the_one_before(user: Path, trained: Path) -> None:
    stages = [read(trained / name) for name in ("align", "pretrain", "sft")]
    assert [s.config["train"]["template"] for s in stages] == ["plain", "plain", "vicuna_v1"]
    assert stages[0].config["parts"]["vision"] == f"{user}/models/tower"
    assert [s.inputs.get("start") for s in stages] == [None, stages[0].digest, stages[1].digest]
    assert stages[2].metrics["steps"] == 2
    assert stages[2].metrics["settings"]["checkpoint_every"] == 20
    assert load(trained / "sft/model").template == "vicuna_v1"


def test_every_model_has_a_card_that_tells_its_stages_and_data_and_no_place(
    user: Path, trained: Path
) -> None:
    align, sft = ((trained / name / "model/README.md").read_text() for name in ("align", "sft"))
    assert "# tiny, stage sft\n" in sft
    assert re.findall(r"^### (.*)$", align, re.M) == ["1. align"]
    assert re.findall(r"^### (.*)$", sft, re.M) == ["1. align", "2. pretrain", "3. sft"]
    for name in ("captions", "instructions"):
        assert rf"| {name}\.json | {file_digest(user / f'rows/{name}.json')} |" in sft
    assert f"| start | {read(trained / 'pretrain').digest} |" in sft
    assert r"| parts\.vision | tower |" in sft
    assert str(user) not in sft
    assert "Not stated. It follows from the licences of the parts" in sft


def test_what_is_finished_is_not_done_again_and_what_changed_is_said(
    user: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "train", None)
    found = train(user, trained)
    assert f"parts.vision: openai/clip-vit-base-patch32 -> {user}/models/tower" in found["changed"]
    assert "sft.steps: 40 -> 2" in found["changed"]
    assert [s["stage"] for s in found["stages"]] == ["align", "pretrain", "sft"]


def test_settings_that_change_no_result_may_change_between_runs(user: Path, trained: Path) -> None:
    before = read(trained / "sft").finished
    train(user, trained, settings=[*quick(user), "sft.checkpoint_every=1", "sft.pack_tokens=512"])
    assert read(trained / "sft").finished == before


def test_a_run_that_broke_leaves_its_curves(user: Path, tmp_path: Path) -> None:
    settings = [*quick(user), "align.steps=4", "align.rules.projector.learning_rate=1e30"]
    with pytest.raises(SharecapError, match=r"step 2: loss nan.*align\. lower the learning rate"):
        train(user, tmp_path, settings=settings, curves=True)
    assert "(step 1)" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_killed_stage_goes_on_and_the_finished_ones_stay(user: Path, tmp_path: Path) -> None:
    settings = [*quick(user), "pretrain.steps=4", "pretrain.checkpoint_every=2"]
    real, calls = running.train, []

    def stopping(config: Any, start: Any, rows: Any, place: Path, _: Any) -> Any:
        def watch(line: dict[str, Any], total: int) -> None:
            calls.append(line["step"])
            if total == 4 and line["step"] == 3 and calls.count(3) == 1:
                raise KeyboardInterrupt

        return real(config, start, rows, place, watch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "train", stopping)
        with pytest.raises(SharecapError, match="run the same command again") as caught:
            train(user, tmp_path, settings=settings)
        assert caught.value.exit_code == 130
        aligned = read(tmp_path / "align").finished
        train(user, tmp_path, settings=settings)
    assert calls == [1, 2, 1, 2, 3, 3, 4, 1, 2]  # pretraining went on after its checkpoint of step 2
    assert read(tmp_path / "align").finished == aligned


@pytest.mark.parametrize("kind", ["llava", "qwen"])
def test_a_stage_can_start_from_the_directory_of_a_whole_model(
    kind: str, user: Path, trained: Path, tmp_path: Path
) -> None:
    base = trained / "sft/model" if kind == "llava" else qwen_folder(tmp_path / "qwen")
    settings = [f"parts={base}", "sft.start=", "sft.steps=2"]
    settings += ["sft.template=own"] * (kind == "qwen")
    (found,) = train(user, tmp_path / "out", "--stage", "sft", settings=settings)["stages"]
    made = read(tmp_path / "out/sft")
    assert made.config["parts"] == str(base)
    assert made.inputs["model"] == files_digest(base)
    assert found["flops"] > 0
    before, after = load(base), load(Path(found["model"]))
    assert after.template == ("own" if kind == "qwen" else "vicuna_v1")
    name = "model.language_model.norm.weight"
    assert not torch.equal(before.model.state_dict()[name], after.model.state_dict()[name])
    assert "| sft |" in (tmp_path / "out/sft/model/README.md").read_text()
    with pytest.raises(UsageError, match=r"no such model directory: .*gone\. give a whole model's"):
        train(user, tmp_path / "no", "--stage", "sft", settings=[f"parts={tmp_path / 'gone'}", "sft.start="])
    assert not (tmp_path / "no").exists()


def test_a_single_stage_needs_what_it_starts_from(user: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"stage sft starts from pretrain, which is not finished: .*pretrain"
    ):
        train(user, tmp_path, "--stage", "sft")
    found = train(user, tmp_path, "--stage", "align")
    assert [s["stage"] for s in found["stages"]] == ["align"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "align"]
    with pytest.raises(UsageError, match="no stage 'tune'"):
        train(user, tmp_path, "--stage", "tune")


def test_a_place_where_something_else_was_trained_is_never_emptied(
    user: Path, trained: Path, tmp_path: Path
) -> None:
    before = read(trained / "align")
    with pytest.raises(UsageError, match=r"other settings \(batch_rows was 8, is 4\): .*align\. choose"):
        train(user, trained, settings=[*quick(user), "align.batch_rows=4"])
    # A later stage is looked at before an earlier one is trained.
    with pytest.raises(UsageError, match=r"other settings \(seed was 0, is 5\): .*sft"):
        train(user, trained, settings=[*quick(user), "sft.seed=5"])
    (tmp_path / "align").mkdir()
    (tmp_path / "align/thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"not empty and was not made by sharecap: .*align"):
        train(user, tmp_path)
    assert (tmp_path / "align/thesis.txt").exists()
    assert read(trained / "align") == before


def test_other_rows_under_the_same_name_are_noticed(tmp_path: Path) -> None:
    own = user_folder(tmp_path)
    train(own, own / "out", "--stage", "align")
    write_rows(own / "rows/captions.json", read_rows(own / "rows/captions.json")[1:], own / "rows")
    with pytest.raises(UsageError, match=r"trained from other rows, or from another start: .*align"):
        train(own, own / "out", "--stage", "align")


def test_a_row_that_can_t_be_read_is_listed_with_its_number(tmp_path: Path) -> None:
    own = user_folder(tmp_path)
    rows = json.loads((own / "rows/captions.json").read_text())
    del rows[3]["conversations"]
    (own / "rows/captions.json").write_text(json.dumps(rows))
    with pytest.raises(SharecapError, match=r"1 of 8 rows can't be trained on \(1 malformed\)"):
        train(own, own / "out", "--stage", "align")
    (listed,) = (own / "out/align/quarantine.jsonl").read_text().splitlines()
    assert (json.loads(listed)["number"], json.loads(listed)["reason"]) == (3, "malformed")
    shutil.copytree(own / "out", own / "mended")
    # Nothing was trained, so both ways out that the error names are open in the same place.
    left = [*quick(own), "align.leave_out=malformed,missing"]
    done = train(own, own / "out", "--stage", "align", settings=left)
    assert done["stages"][0]["dropped_rows"] == 1
    with pytest.raises(UsageError, match=r"align.leave_out can't be 'odd' \(Input should be 'malformed'"):
        train(own, own / "third", settings=[*quick(own), "align.leave_out=odd"])
    assert set(get_args(Bad)) < set(REASONS)
    (own / "rows/captions.json").write_text(json.dumps([*rows[:3], *rows[4:]]))
    assert train(own, own / "mended", "--stage", "align")["stages"][0]["dropped_rows"] == 0


def test_a_later_stage_that_can_t_run_is_told_before_the_first_is_done(user: Path, tmp_path: Path) -> None:
    for setting, why in (
        ("pretrain.rules.vision.from_block=6", r"no used block 6 .*: stage pretrain\. use 0 to 2"),
        ("sft.template=vicuna", r"unknown template 'vicuna': stage sft"),
    ):
        with pytest.raises(UsageError, match=why):
            train(user, tmp_path / "out", settings=[*quick(user), setting])
    assert not (tmp_path / "out").exists()


def test_a_stage_trains_on_a_mixture(tmp_path: Path) -> None:
    own = user_folder(tmp_path)
    parts = [f"{own / 'rows/captions.json'},count=3", f"{own / 'rows/instructions.json'},only="]
    assert CliRunner().invoke(app, ["mix", *parts, "--to", str(own / "rows/mixture")]).exit_code == 0
    settings = [*quick(own), "align.rows.0.file=mixture", "align.steps=none", "align.epochs=1"]
    done = train(own, own / "out", "--stage", "align", settings=[*settings, "align.batch_rows=2"])
    assert done["stages"][0]["steps"] == 2
    lines = (own / "out/align/metrics.jsonl").read_text().splitlines()
    assert sum(json.loads(line)["images"] for line in lines) == 3
    mixed = read(own / "rows/mixture")
    assert read(own / "out/align").inputs["mixture"] == mixed.key


def test_a_kill_after_the_last_step_costs_no_more_than_one_before(user: Path, tmp_path: Path) -> None:
    """The checkpoint stays until the manifest is there: the digest of a large model takes minutes."""
    settings = [*quick(user), "align.steps=4", "align.checkpoint_every=3"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sharecap.artifact.files_digest", interrupt)
        with pytest.raises(SharecapError, match="run the same command again"):
            train(user, tmp_path, "--stage", "align", settings=settings)
    assert [p.name for p in (tmp_path / "align/state").iterdir()] == ["step-00000003"]
    train(user, tmp_path, "--stage", "align", settings=settings)
    assert not (tmp_path / "align/state").exists()


def interrupt(_: Path, content: object = ()) -> str:
    """Stands for a digest that is interrupted, once a model is there to be digested."""
    if content:
        raise KeyboardInterrupt
    return "parts"


def test_two_commands_never_train_in_one_place(user: Path, tmp_path: Path) -> None:
    with held(tmp_path), pytest.raises(SharecapError, match="another command is writing here"):
        train(user, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [".lock"]


def test_missing_files_are_listed_with_where_people_get_them(user: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such data directory"):
        train(tmp_path / "gone", tmp_path)
    (tmp_path / "rows").mkdir()
    with pytest.raises(UsageError, match=r"2 of 2 files .* put there: captions\.json; instructions\.json"):
        train(tmp_path, tmp_path / "out")
    words = ["train", "sharegpt4v_7b", "--data", str(user / "rows"), "--to", str(tmp_path / "out")]
    error = CliRunner().invoke(app, words).exception
    assert isinstance(error, UsageError)
    assert "3 of 3 files of rows are missing" in str(error)
    assert "blip_laion_cc_sbu_558k.json (from huggingface.co/datasets/liuhaotian/LLaVA-Pretrain)" in str(
        error
    )
    assert not (tmp_path / "out").exists()


def test_the_other_processes_of_torchrun_wait_for_the_first(tmp_path: Path) -> None:
    worked: list[Path] = []
    key = running.key_of("model", {}, {})
    other = threading.Thread(target=follow, args=(tmp_path / "a", key, worked.append, 0.01))
    other.start()
    made = stage(tmp_path / "a", "model", {}, {}, lambda _: {})
    other.join(timeout=20)
    assert not other.is_alive()
    assert follow(tmp_path / "a", key, worked.append) == made
    assert worked in ([tmp_path / "a"], [])  # none where the first was already done
