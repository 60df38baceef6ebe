"""The quickstart from its first picture to its report: killed, interrupted, gone on with, found again."""

import json
import os
import resource
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sharecap.artifact import MANIFEST, read
from sharecap.captions.layer import read_layer
from sharecap.errors import UsageError
from sharecap.evals.comparison import compare_runs
from sharecap.evals.results import read_run
from sharecap.scenes.benchmark_files import KIND_NAMES
from sharecap.scenes.quickstart import Story
from sharecap.scenes.summary import find_summary, read_results, result_lines
from sharecap.scenes.summary_course import STAGES
from tests.scenes.tiny_story import SPEC

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-c", "from sharecap.cli import main; main()", "quickstart"]
ONE_CORE = os.environ | {"OMP_NUM_THREADS": "1"}


@dataclass
class Told:
    """A story that was killed, interrupted, and told to its end."""

    root: Path
    codes: list[int] = field(default_factory=list)  # of the runs, one after the other
    errors: list[str] = field(default_factory=list)  # what each wrote to stderr, from its signal on
    finished: list[dict[str, str]] = field(default_factory=list)  # after each run: stage -> when
    last: dict[str, Any] = field(default_factory=dict)  # what the last run printed

    def run(self, until: str = "", number: signal.Signals = signal.SIGTERM, *, group: bool = False) -> None:
        """Tell on, until a line on stderr begins with `until`; then send the signal."""
        command = [sys.executable, "-m", "tests.scenes.tiny_story", str(self.root)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        # In a session of its own, so that a signal to the group is what Ctrl-C sends.
        with subprocess.Popen(
            command, cwd=ROOT, **pipes, text=True, env=ONE_CORE, start_new_session=True
        ) as child:
            assert child.stderr is not None
            if until:
                assert any(line.startswith(until) for line in child.stderr), "it ended before"
                (os.killpg if group else os.kill)(child.pid, number)
            said, errors = child.communicate()  # returns when the last worker has let go of the pipes
        self.codes.append(child.returncode)
        self.errors.append(errors)
        self.finished.append(
            {
                name: read(self.root / name).finished
                for name in STAGES
                if (self.root / name / MANIFEST).exists()
            }
        )
        self.last = json.loads(said) if said else {}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    story = Told(tmp_path_factory.mktemp("story") / "quickstart")
    story.run("teacher: captions", signal.SIGKILL)
    story.run("training arms/short/align", signal.SIGINT, group=True)
    story.run()
    return story


def test_killed_and_interrupted_it_goes_on_to_its_end(told: Told) -> None:
    assert told.codes == [-signal.SIGKILL, 130, 0], told.errors
    assert "sharecap: interrupted" in told.errors[1]
    assert "Traceback" not in told.errors[1]
    killed, interrupted, ended = told.finished
    assert killed.keys() <= interrupted.keys() < ended.keys() == set(STAGES)
    # Nothing that was finished was done again.
    assert killed.items() <= interrupted.items() <= ended.items()
    assert Path(told.last["page"]).read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_second_run_finds_everything_without_torch(told: Told) -> None:
    before = {path: path.stat().st_mtime_ns for path in told.root.rglob("*") if path.is_file()}
    told.run()
    assert told.codes[-1] == 0
    assert told.last["torch"] is False
    assert told.errors[-1] == ""
    assert {path: path.stat().st_mtime_ns for path in told.root.rglob("*") if path.is_file()} == before


def test_a_folder_of_somebody_elses_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("Dear Ann")
    with pytest.raises(UsageError, match="holds no quickstart"):
        Story(tmp_path, SPEC).run()
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_the_report_belongs_to_its_story_and_program(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_summary(Story(told.root, SPEC)) == Path(told.last["page"])
    assert find_summary(Story(told.root, type(SPEC)(seed=99))) is None
    monkeypatch.setattr("sharecap.scenes.summary.program_digest", lambda _: "another program")
    assert find_summary(Story(told.root, SPEC)) is None


def test_numbers_are_those_of_the_evaluations(told: Told) -> None:
    results = read_results(Path(told.last["page"]))
    evals = told.root / "evals"
    lows = []
    for other in ("short", "none"):
        found = compare_runs(read_run(evals / "detailed"), read_run(evals / other), names=KIND_NAMES)
        difference = results["overall"][f"detailed - {other}"]
        assert difference["value"] == found.overall.difference.value
        assert difference["low"] == found.overall.difference.low
        assert results["overall"]["detailed"]["value"] == found.overall.a.value
        lows.append(difference["low"])
    assert results["holds"] == all(low is not None and low > 0 for low in lows)
    assert results["questions"] == sum(1 for _ in (evals / "none" / "items.jsonl").open())


def test_teacher_and_captioner_captioned_the_same_held_out_pictures(told: Told) -> None:
    layers = [list(read_layer(told.root / "probe" / "dataset", name)) for name in ("teacher", "captioner")]
    assert {c.image_id for c in layers[1]} <= {c.image_id for c in layers[0]}
    assert len(layers[0]) == SPEC.heldout_pictures
    results = read_results(Path(told.last["page"]))
    teacher = next(c for c in results["captions"] if (c["captioner"], c["pictures"]) == ("teacher", "probe"))
    assert teacher["captions"] == SPEC.heldout_pictures
    assert teacher["precision"]["value"] > 85
    assert teacher["recall"]["value"] > 85
    assert 60 <= teacher["words_mean"] <= 150


def test_the_page_shows_pictures_captions_and_curves_and_needs_nothing_else(told: Told) -> None:
    page = Path(told.last["page"]).read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") >= 6
    assert page.count("<svg") >= 4
    assert "/probe/dataset --model " in page  # where the models can be asked about these pictures
    assert not any(word in page for word in ("nan", "NaN", "<script", "http://", "https://"))
    results = read_results(Path(told.last["page"]))
    for verdict in results["verdicts"]:
        assert verdict.replace("'", "&#39;") in page
    lines = result_lines(results | {"run_seconds": 1.0, "report": "somewhere.html"})
    assert lines[0].startswith("In this run")
    assert lines[-1] == "report: somewhere.html"


def test_a_file_in_the_place_of_the_directory_is_an_error_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("mine")
    done = subprocess.run(
        [*COMMAND, "--to", str(tmp_path / "a")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"sharecap: not a directory: {tmp_path / 'a'}. choose another place\n"


def test_a_directory_of_somebody_else_inside_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "world").mkdir()
    (tmp_path / "world" / "map.txt").write_text("mine")
    done = subprocess.run([*COMMAND, "--to", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "was not made by sharecap" in done.stderr
    assert (tmp_path / "world" / "map.txt").read_text() == "mine"


def test_a_full_disk_is_an_error_in_one_line_and_nothing_stands_as_finished(tmp_path: Path) -> None:
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    done = subprocess.run(
        [*COMMAND, "--to", str(tmp_path / "a")],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=small_files,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("sharecap: no space left on the disk")
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob(MANIFEST))
