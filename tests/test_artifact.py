"""Finished directories: found again, begun anew, never half there, never somebody else's."""

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sharecap import artifact
from sharecap.artifact import MANIFEST, STARTED, STATE, files_digest, read, stage, write_atomically
from sharecap.errors import SharecapError, UsageError


@dataclass(frozen=True)
class Recipe:
    sugar: int = 2
    where: Path = Path("kitchen")


def bake(directory: Path) -> Mapping[str, Any]:
    (directory / "cake.txt").write_text("cake")
    (directory / "log.txt").write_text(f"done at {time.time_ns()}")
    (directory / STATE).mkdir(exist_ok=True)
    (directory / STATE / "dough").write_text(str(time.time_ns()))
    return {"cakes": 1}


def never(_: Path) -> Mapping[str, Any]:
    raise AssertionError("nothing was to be done")


def test_a_finished_directory_is_found_again_and_tells_what_it_is(tmp_path: Path) -> None:
    made = stage(tmp_path / "a", "cake", Recipe(), {"flour": "d1"}, bake)
    assert stage(tmp_path / "a", "cake", Recipe(), {"flour": "d1"}, never) == made == read(tmp_path / "a")
    assert (made.kind, made.inputs, made.metrics) == ("cake", {"flour": "d1"}, {"cakes": 1})
    assert made.config == {"sugar": 2, "where": "kitchen"}
    assert made.finished.startswith("20")
    assert not (tmp_path / "a" / STARTED).exists()


@pytest.mark.parametrize(("config", "inputs"), [(Recipe(3), {"f": "1"}), (Recipe(), {"f": "2"})])
def test_another_config_or_input_starts_clean(
    tmp_path: Path, config: Recipe, inputs: Mapping[str, str]
) -> None:
    stage(tmp_path / "a", "cake", Recipe(), {"f": "1"}, bake)

    def work(directory: Path) -> Mapping[str, Any]:
        assert [p.name for p in directory.iterdir()] == [STARTED]
        return {}

    assert stage(tmp_path / "a", "cake", config, inputs, work).config == artifact.plain(config)


def test_a_result_of_another_kind_is_left_alone(tmp_path: Path) -> None:
    made = stage(tmp_path / "a", "cake", Recipe(), {"f": "1"}, bake)
    with pytest.raises(UsageError, match="a 'cake', no place for a 'pie'"):
        stage(tmp_path / "a", "pie", Recipe(), {"f": "1"}, never)
    assert read(tmp_path / "a") == made


def test_the_digest_leaves_out_state_and_what_is_not_content(tmp_path: Path) -> None:
    whole = [stage(tmp_path / name, "cake", {}, {}, bake).digest for name in "ab"]
    content = [
        stage(tmp_path / name, "cake", {}, {}, bake, content=("cake.txt",)).digest for name in ("c", "d")
    ]
    assert whole[0] != whole[1]  # the log tells the time
    assert content[0] == content[1]
    (tmp_path / "c" / "cake.txt").write_text("pie")
    assert files_digest(tmp_path / "c", ("cake.txt",)) != content[0]


def test_content_may_be_folders_and_names_that_only_begin_alike_are_others(tmp_path: Path) -> None:
    for name in ("model/a", "model-old/a"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(name)
    before = files_digest(tmp_path, ("model",))
    (tmp_path / "model-old" / "a").write_text("changed")
    assert files_digest(tmp_path, ("model",)) == before
    (tmp_path / "model" / "a").write_text("changed")
    assert files_digest(tmp_path, ("model",)) != before


def test_what_failed_is_not_there_and_goes_on_with_the_same_key(tmp_path: Path) -> None:
    def fail(directory: Path) -> Mapping[str, Any]:
        (directory / "half").write_text("half")
        raise SharecapError("out of eggs")

    with pytest.raises(SharecapError, match="out of eggs"):
        stage(tmp_path / "a", "cake", {}, {}, fail)
    with pytest.raises(SharecapError, match="unfinished"):
        read(tmp_path / "a")
    spent = json.loads((tmp_path / "a" / STARTED).read_text())["seconds"]

    def finish(directory: Path) -> Mapping[str, Any]:
        assert (directory / "half").read_text() == "half"
        return {}

    assert stage(tmp_path / "a", "cake", {}, {}, finish).seconds >= spent > 0


def test_what_was_killed_goes_on_with_the_same_key(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom sharecap.artifact import stage\n"
        "def work(directory):\n"
        "    (directory / 'half').write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "stage(Path(sys.argv[1]), 'cake', {}, {}, work)"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path / "a")], check=False)
    assert killed.returncode == -9

    def finish(directory: Path) -> Mapping[str, Any]:
        return {"kept": (directory / "half").read_text()}

    assert stage(tmp_path / "a", "cake", {}, {}, finish).metrics == {"kept": "half"}


@pytest.mark.parametrize("left", [[], [f"{STARTED}.partial"]])
def test_what_a_kill_right_at_the_start_leaves_is_no_foreign_directory(
    tmp_path: Path, left: list[str]
) -> None:
    (tmp_path / "a").mkdir()
    for name in left:
        (tmp_path / "a" / name).write_text("{")
    assert stage(tmp_path / "a", "cake", {}, {}, bake).metrics == {"cakes": 1}


def test_a_kill_while_an_old_result_is_removed_leaves_a_directory_of_ours(tmp_path: Path) -> None:
    stage(tmp_path / "a", "cake", {}, {}, bake)
    link = tmp_path / "a" / "zz"
    link.symlink_to(tmp_path)

    class Killed(BaseException):
        pass

    def kill(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "os.remove" and alive and str(arguments[0]).endswith(("cake.txt", "log.txt")):
            raise Killed

    alive = [True]
    sys.addaudithook(kill)
    with pytest.raises(Killed):
        stage(tmp_path / "a", "cake", {"sugar": 3}, {}, never)
    alive.clear()
    assert (tmp_path / "a" / STARTED).exists()
    assert not (tmp_path / "a" / MANIFEST).exists()
    assert stage(tmp_path / "a", "cake", {"sugar": 3}, {}, bake).config == {"sugar": 3}
    assert tmp_path.exists()


@pytest.mark.parametrize(
    ("name", "text"),
    [("notes.txt", "mine"), (STARTED, "[]"), (STARTED, "{"), (STARTED, '{"name": "an app"}')],
)
def test_a_directory_that_sharecap_did_not_make_is_left_alone(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match="not made by sharecap"):
        stage(tmp_path, "cake", {}, {}, never)
    assert (tmp_path / name).read_text() == text


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"name": "an app", "icons": []}'])
def test_a_damaged_or_foreign_manifest_is_named_and_left_alone(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(SharecapError, match="damaged manifest"):
        stage(tmp_path, "cake", {}, {}, never)
    assert (tmp_path / MANIFEST).read_text() == text


def test_a_file_in_the_place_of_a_directory_is_an_error_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("mine")
    with pytest.raises(UsageError, match="not made by sharecap"):
        stage(tmp_path / "a", "cake", {}, {}, never)


def test_writing_leaves_the_old_file_and_no_other_when_the_disk_is_full(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", "old")
    script = (
        "import resource, signal, sys\nfrom pathlib import Path\n"
        "from sharecap.artifact import write_atomically\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "write_atomically(Path(sys.argv[1]), 'x' * 5000)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "a")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_keys_don_t_depend_on_the_order_of_fields() -> None:
    one = artifact.key_of("k", {"a": 1, "b": (1, 2)}, {"x": "1", "y": "2"})
    assert one == artifact.key_of("k", {"b": [1, 2], "a": 1}, {"y": "2", "x": "1"})
