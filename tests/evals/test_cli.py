"""The commands as people type them: tables, JSON, exit codes, one clear line for each mistake."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.evals.small import PARITY, write_benchmarks


def sharecap(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sharecap.cli", *map(str, arguments)]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
    }  # many small matrices: threads only wait for each other
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MME result files of two subtasks, all answered yes."""
    folder = tmp_path_factory.mktemp("results")
    for subtask in ("count", "OCR"):
        lines = [f"{i}.jpg\tIs it {a}?\t{a}\tYes\n" for i in range(20) for a in ("Yes", "No")]
        (folder / f"{subtask}.txt").write_text("".join(lines))
    return folder


def test_score_prints_a_table_and_what_is_missing(results: Path) -> None:
    done = sharecap("score", "mme", "--predictions", results)
    assert done.returncode == 0, done.stderr
    assert "total (of 400)" in done.stdout
    assert "100.00" in done.stdout
    assert "12 of 14 subtasks are not there" in done.stdout


def test_scored_predictions_can_be_kept_and_compared(results: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        done = sharecap("score", "mme", "--predictions", results, "--to", tmp_path / name, "--json")
        assert json.loads(done.stdout)["score"] == 100
    done = sharecap("compare", tmp_path / "a", tmp_path / "b", "--json")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)["comparisons"]
    assert found["benchmarks"]["mme"]["total"]["difference"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert found["corrected"] == {"mme": 1.0}
    picture = tmp_path / "differences.svg"
    done = sharecap("compare", tmp_path / "a", tmp_path / "b", "--plot", picture)
    assert "+0.00 .. +0.00" in done.stdout
    assert f"picture: {picture}" in done.stdout
    assert picture.read_text().startswith("<?xml")


@pytest.mark.skipif(not PARITY.is_dir(), reason=f"no recorded predictions at {PARITY}")
def test_score_takes_a_rule_for_vqa() -> None:
    folder = PARITY / "textvqa"
    done = sharecap(
        *("score", "textvqa", "--predictions", folder / "llava-v1.5-13b_answers.jsonl"),
        *("--labels", folder, "--rule", "server", "--json"),
    )
    assert json.loads(done.stdout)["score"] == pytest.approx(60.078)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (
            ("score", "vqa", "--predictions", "p"),
            2,
            "unknown benchmark 'vqa'. choose from llava-bench",
        ),
        (("score", "mme", "--predictions", "nowhere"), 2, "no such file or directory: nowhere"),
        (("score", "mme", "--predictions", "p.jsonl"), 2, "add --labels with MME's folder"),
        (("score", "mme", "--predictions", "p.jsonl", "--rule", "m4c"), 2, "one scoring rule only"),
        (("score", "mme", "--predictions", ".", "--labels", "."), 2, "leave out --labels"),
        (("score", "vqav2", "--predictions", "p.jsonl"), 2, "add --labels"),
        (("score", "mmbench", "--predictions", "p.jsonl"), 1, "add --labels"),
        (("score", "mmbench", "--predictions", "binary", "--labels", "p.jsonl"), 1, "not UTF-8 text"),
        (("compare", "nowhere", "p.jsonl"), 1, "no finished result here: nowhere"),
        (("compare", "nowhere"), 2, "name the runs to compare it with"),
        (("compare", "x=nowhere,", "p.jsonl"), 2, "write NAME=RUN,RUN"),
        (("compare", "x=a,./a", "p.jsonl"), 2, "a run stands there twice: 'x=a,./a'"),
        (("compare", "a", "b", "--plot", "p.jsonl"), 2, "end it in .png or .svg"),
        (("compare", "a", "b", "--plot", "nowhere/p.png"), 2, "no such directory: nowhere"),
        (("eval", "nowhere", "--benchmarks", "."), 2, "not a model directory: nowhere"),
        (("eval", "http://localhost:1/v1#m", "--benchmarks", "nowhere"), 2, "no such directory: nowhere"),
        (("benchmarks", "check", "nowhere"), 2, "no such directory: nowhere. give the directory"),
        (("eval", "http://localhost:1/v1#m", "--benchmarks", "."), 2, "no benchmark here"),
        (
            ("eval", "http://localhost:1/v1#m", "--benchmarks", ".", "--only", "chair"),
            2,
            "unknown benchmark 'chair'. choose from mme, mmbench, seed-bench",
        ),
    ],
)
def test_a_mistake_is_one_clear_line(
    tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    (tmp_path / "p.jsonl").write_text('{"question_id": 1, "text": "A"}\n')
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x80" * 10)
    done = sharecap(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_eval_runs_what_it_finds_and_names_what_it_does_not(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from sharecap.model.folder import save
    from tests.model.tiny import tiny_llava

    save(tiny_llava(tmp_path / "parts"), tmp_path / "tiny")
    root = write_benchmarks(tmp_path / "b", 2)
    (root / "vqav2").rename(tmp_path / "elsewhere")
    done = sharecap("eval", "tiny", "--benchmarks", root, "--only", "mme", "--only", "vqav2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "total (of 400)" in done.stdout
    assert "vqav2: not found, not run" in done.stdout
    assert "answered 4/4" in done.stderr
    (run,) = (tmp_path / "evals").iterdir()
    assert f"run: evals/{run.name}" in done.stdout
