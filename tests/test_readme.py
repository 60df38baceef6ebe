"""What the README promises exists: commands, options, links. Its example runs in test_photographs."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from typer.main import get_command

from sharecap.cli import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [README, *(page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs").glob("*.md")))]


def blocks(page: str) -> list[str]:
    return re.findall(r"```sh\n(.*?)```", page, re.DOTALL)


def command_lines(page: str, program: str) -> list[str]:
    """Every line of a shell block and every inline code that starts with `program`."""
    lines = [line for block in blocks(page) for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", page, flags=re.DOTALL))
    return [line for line in lines if re.match(rf"{program}( |$)", line)]


def test_the_example_is_the_one_that_is_run_on_the_photographs():
    pattern = r"<!-- tested: recorded example -->\n```sh\n(.*?)```"
    page = (ROOT / "docs" / "caption-your-photos.md").read_text(encoding="utf-8")
    assert re.findall(pattern, README, re.DOTALL) == re.findall(pattern, page, re.DOTALL)


@pytest.mark.parametrize("line", sorted({line for page in PAGES for line in command_lines(page, "sharecap")}))
def test_every_command_on_our_pages_exists_with_its_options(line):
    words = [word for word in shlex.split(line.rstrip("&")) if word != "--json"][1:]
    if words[:1] == ["--help"]:
        return
    command = get_command(app)
    while hasattr(command, "commands"):
        assert words[0] in command.commands, f"no command {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    assert {word for word in words if word.startswith("--")} <= known


@pytest.mark.parametrize("line", sorted(set(command_lines(README, "make"))))
def test_every_make_target_in_the_readme_exists(line):
    done = subprocess.run([*shlex.split(line), "-n"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "page", ["README.md", *(f"docs/{p.name}" for p in sorted((ROOT / "docs").glob("*.md")))]
)
def test_every_link_between_our_pages_leads_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    local = {link.partition("#")[0] for link in links if "://" not in link} - {""}
    assert [link for link in sorted(local) if not (ROOT / page).parent.joinpath(link).exists()] == []


def test_the_readme_is_short():
    assert len(README.splitlines()) < 120
