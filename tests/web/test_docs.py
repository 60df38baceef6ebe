"""The commands of docs/look-and-judge.md: each is one that sharecap takes; `view` serves what is asked."""

import re
import shlex
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import typer

from sharecap.cli import app

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "look-and-judge.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_on_the_page_is_one(line: str) -> None:
    program, name, *words = shlex.split(line)
    assert program == "sharecap"
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    assert command.make_context(name, words).params


def test_view_serves_until_it_is_ended(dataset: Path) -> None:
    command = [sys.executable, "-m", "sharecap.cli", "view", str(dataset), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        found = re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())
        assert found
        with urllib.request.urlopen(found[0]) as answer:  # at once, while the index is being made
            assert dataset.name in answer.read().decode()
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130


@pytest.mark.parametrize("name", re.findall(r"\((view-[\w.-]+)\)", PAGE))
def test_every_picture_on_the_page_is_there_and_small(name: str) -> None:
    assert (DOCS / name).stat().st_size < 150_000


def test_without_the_extra_the_command_says_how_to_get_it(dataset: Path) -> None:
    code = "import sys; sys.modules['fastapi'] = None; from sharecap.cli import main; main()"
    command = [sys.executable, "-c", code, "view", str(dataset)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "sharecap: the page needs fastapi. pip install 'sharecap[web]'\n"
