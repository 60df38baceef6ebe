"""`sharecap train` under torchrun: processes train as one, whatever kills them; an error is said once."""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from typer.testing import CliRunner

from sharecap.cli import app
from sharecap.data.rows import write_rows
from sharecap.errors import SharecapError, UsageError
from sharecap.model.folder import load, save
from sharecap.records import Conversation, Turn
from sharecap.train.parallel import meeting_place, one_voice
from tests.model.tiny import caption_rows, tiny_llava

HERE = Path(__file__).parents[2]
PAGE = (HERE / "docs/train-a-model.md").read_text(encoding="utf-8")
RECIPE = str(HERE / "tests/train/dying.py:recipe")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A start and rows, of which every other has no picture: some packs have none, and ranks differ."""
    directory = tmp_path_factory.mktemp("ranks")
    save(tiny_llava(directory), directory / "start")
    told = [f"There is a red circle, and {n} blue squares above it. {'Nothing else. ' * n}" for n in range(6)]
    texts = [
        Conversation(f"text{n}", (), (Turn("user", "What is white?"), Turn("assistant", f"The {text}.")))
        for n, text in enumerate(("background", "star", "small square", "large triangle", "image", "left"))
    ]
    rows = [*caption_rows(directory / "pictures", told), *texts]
    write_rows(directory / "rows.json", rows, directory)
    return directory


def arguments(place: Path, out: Path, *settings: str) -> list[str]:
    """What follows `sharecap train`."""
    more = [word for setting in (f"parts={place / 'start'}", *settings) for word in ("--set", setting)]
    return [RECIPE, "--data", str(place), "--to", str(out), *more]


def alone_in(place: Path, out: Path, *settings: str) -> Path:
    """The same command in one process."""
    done = CliRunner().invoke(app, ["train", *arguments(place, out, *settings)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return out / "sft"


def launched(command: list[str], fails: bool = False, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run it with this environment's torchrun on the path."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    known = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"} | environment
    done = subprocess.run(command, cwd=HERE, env=known, capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == fails, done.stderr[-4000:]
    return done


def documented(place: Path, out: Path, *settings: str) -> list[str]:
    """The page's command for several GPUs, with two processes and our recipe."""
    line = re.search(r"^torchrun .* train RECIPE --to runs/mine$", PAGE, re.M)
    assert line
    words = shlex.split(line[0].replace("--nproc-per-node 8", "--nproc-per-node 2"))
    return [*words[: words.index("RECIPE")], *arguments(place, out, *settings)]


def lines(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def alone(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process that the others must equal."""
    return alone_in(place, tmp_path_factory.mktemp("alone"))


def assert_same(one: Path, other: Path) -> None:
    """Losses, gradients and weights of two runs agree to rounding."""
    for expected, found in zip(lines(one), lines(other), strict=True):
        assert found["loss"] == pytest.approx(expected["loss"], abs=1e-5)
        assert found["gradient_norm"] == pytest.approx(expected["gradient_norm"], rel=1e-4)
        assert found["gradient_norms"] == pytest.approx(expected["gradient_norms"], rel=1e-4)
        assert found.get("held_out_loss") == pytest.approx(expected.get("held_out_loss"), abs=1e-5)
        assert (found["tokens"], found["learned_tokens"]) == (expected["tokens"], expected["learned_tokens"])
        assert found["images"] == expected["images"]
    weights = [dict(load(run / "model").model.named_parameters()) for run in (one, other)]
    for name, expected in weights[0].items():
        torch.testing.assert_close(weights[1][name], expected, atol=2e-4, rtol=1e-3, msg=name)


def test_the_page_s_command_learns_with_two_processes_what_one_does(
    place: Path, alone: Path, tmp_path: Path
) -> None:
    done = launched(documented(place, tmp_path))
    assert_same(alone, tmp_path / "sft")
    assert {p.name for p in (tmp_path / "sft").iterdir()} == {p.name for p in alone.iterdir()}
    # One process speaks: what differs, progress, the result.
    said = done.stdout.splitlines()
    assert [line for line in said if line.startswith(("recipe", "sft:"))] == [said[0], said[-2]]
    assert said[-1] == f"curves: {tmp_path / 'report.html'}"
    assert all(line.startswith("training sft: steps ") for line in done.stderr.splitlines()), done.stderr


def test_the_slurm_script_s_run_goes_on_when_a_process_dies(place: Path, alone: Path, tmp_path: Path) -> None:
    """Slurm's two commands are stood in for by the shell: one machine, whose GPUs are two processes."""
    script = (HERE / "examples/slurm/train.sbatch").read_text(encoding="utf-8")
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    (tmp_path / "train.sbatch").write_text(script.replace(":29500", f":{port}"))
    for name, does in (("scontrol", "echo localhost"), ("srun", 'exec "$@"')):
        (tmp_path / name).write_text(f"#!/bin/bash\n{does}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_NNODES": "1", "SLURM_GPUS_ON_NODE": "2", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "x"}
    path = os.pathsep.join([str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"]])
    out = tmp_path / "out"
    command = ["bash", str(tmp_path / "train.sbatch"), *arguments(place, out, "sft.parallel=ddp")]
    done = launched(command, **slurm, PATH=path, DIE_AT="4", OUT=str(out))
    assert_same(alone, out / "sft")
    assert "Signal 9" in done.stderr or "-9" in done.stderr
    assert done.stderr.count("\nsharecap: ") <= 1


def test_what_two_processes_began_one_can_end_with_steps_of_so_many_tokens_too(
    place: Path, tmp_path: Path
) -> None:
    tokens, out = ("sft.batch_rows=none", "sft.batch_tokens=300"), tmp_path / "two"
    launched(documented(place, out, *tokens), fails=True, DIE_AT="4", OUT=str(out))
    state = out / "sft/state"
    assert [p.name for p in state.iterdir()] == ["step-00000003"]
    assert len(list((state / "step-00000003").glob("*.safetensors"))) == 2
    assert_same(alone_in(place, tmp_path / "alone", *tokens), alone_in(place, out, *tokens))


def test_an_error_of_one_process_ends_all_and_is_said_once(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place, tmp_path / "data")
    (tmp_path / "data/pictures/3.png").write_bytes(b"no picture")
    done = launched(documented(tmp_path / "data", tmp_path / "out"), fails=True)
    (said,) = re.findall(r"^sharecap: .*$", done.stderr, re.M)
    assert re.search(r"\(row row3\): .*3\.png", said)
    assert "sharecap/train" not in done.stderr, "no traceback of ours"


@pytest.fixture
def second_rank(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """This process as the second of two; yields what the first one sees."""
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    names = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port)}
    for name, value in (names | {"TORCHELASTIC_USE_AGENT_STORE": "True"}).items():
        monkeypatch.setenv(name, value)
    store.add("init/", 1)  # the first rank is there
    meeting_place.cache_clear()
    yield dist.PrefixStore("0", store)  # type: ignore[attr-defined]
    meeting_place.cache_clear()


def test_a_rank_keeps_quiet_when_another_has_spoken(second_rank: Any) -> None:
    with pytest.raises(UsageError, match="mine"), one_voice():
        raise UsageError("mine")
    assert second_rank.add("failed", 1) == 2
    with pytest.raises(SystemExit) as ended, one_voice():
        raise UsageError("mine too")
    assert ended.value.code == 2


@pytest.mark.usefixtures("second_rank")
def test_a_broken_connection_is_one_line() -> None:
    with pytest.raises(SharecapError, match=r"another process of this run was ended\. torchrun"), one_voice():
        raise RuntimeError("[/torch/gloo/transport/tcp/pair.cc:1] Connection closed by peer")


def test_a_number_of_processes_without_torchrun_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    meeting_place.cache_clear()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with (
        pytest.raises(UsageError, match=r"variable RANK expected.*WORLD_SIZE\. start the command with"),
        one_voice(),
    ):
        pass


@pytest.mark.usefixtures("second_rank")
def test_a_captioner_is_trained_in_one_process(tmp_path: Path) -> None:
    words = ["captioner", "train", str(tmp_path), "layer", "--from", str(tmp_path)]
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, UsageError)
    assert "in one process only. run the same command without torchrun" in str(done.exception)
