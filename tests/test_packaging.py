"""What people install: the wheel is complete, the base light, versions pinned; `make` does no work twice."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import sharecap

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
HEAVY = (
    "torch",
    "transformers",
    "pyarrow",
    "numpy",
    "PIL",
    "matplotlib",
    "aiohttp",
    "pydantic",
    "jinja2",
    "openpyxl",
)


def run(*command: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; its output is in the failure's message."""
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def test_the_wheel_carries_every_file_of_the_package_and_no_other(wheel):
    ours = {
        path.relative_to(SOURCE).as_posix()
        for path in (SOURCE / "sharecap").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        carried = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert carried == ours
    assert "sharecap/py.typed" in carried
    for kind in ("captions/packs/*.toml", "report/templates/*.j2", "report/templates/*.css"):
        assert list((SOURCE / "sharecap").glob(kind)), f"no {kind}"


def test_the_wheel_says_what_it_is(metadata):
    assert (metadata["Name"], metadata["Version"]) == ("sharecap", sharecap.__version__)
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"


def test_the_base_needs_neither_torch_nor_a_test_tool(metadata):
    needed = {Requirement(line) for line in metadata.get_all("Requires-Dist")}
    base = {canonicalize_name(r.name) for r in needed if r.marker is None or r.marker.evaluate({"extra": ""})}
    assert {"typer", "aiohttp", "pyarrow", "pillow"} <= base
    assert not {"torch", "transformers", "matplotlib", "pytest"} & base


@pytest.mark.skipif(
    not os.environ.get("SHARECAP_TEST_INSTALL"), reason="uses pip's network; `make test` runs it"
)
def test_the_wheel_works_in_an_empty_environment_without_torch(wheel, tmp_path):
    home = tmp_path / "empty"
    venv.create(home, with_pip=False)
    pip = (sys.executable, "-m", "pip", "--python", home / "bin" / "python", "install", "--quiet")
    run(*pip, "--constraint", ROOT / "constraints.txt", wheel)
    environment = {"PATH": f"{home / 'bin'}:/usr/bin:/bin", "HOME": str(tmp_path)}
    assert "Usage: sharecap" in run(home / "bin" / "sharecap", "--help", cwd=tmp_path, env=environment).stdout
    told = run(home / "bin" / "sharecap", "--version", cwd=tmp_path, env=environment).stdout
    assert told == f"sharecap {sharecap.__version__}\n"
    code = "import importlib.util as u, sharecap; print(sharecap.__file__, u.find_spec('torch'))"
    told = run(home / "bin" / "python", "-c", code, cwd=tmp_path, env=environment).stdout
    assert told.startswith(str(home))
    assert told.endswith("None\n")


@pytest.mark.parametrize("start", ["", "import sharecap.cli; sys.argv[1:] = ['--help']; sharecap.cli.main()"])
def test_starting_imports_nothing_heavy(start):
    code = (
        f"import sys, sharecap\ntry: {start or 'pass'}\nexcept SystemExit: pass\n"
        f"print('LOADED', {set(HEAVY)!r} & {{name.partition('.')[0] for name in sys.modules}})"
    )
    assert run(sys.executable, "-c", code).stdout.splitlines()[-1] == "LOADED set()"


def test_rooms_for_captioning_scoring_and_reporting_import_without_torch():
    rooms = ("images", "captions", "evals", "report")
    names = sorted(
        ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
        for room in rooms
        for path in (SOURCE / "sharecap" / room).rglob("*.py")
    )
    code = (
        f"import importlib, sys\nfor name in {names!r}:\n    importlib.import_module(name)\n"
        "    assert not {'torch', 'transformers', 'matplotlib'} & set(sys.modules), name"
    )
    run(sys.executable, "-c", code)


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line.split("==") for line in lines if not line.startswith("#")]
    assert all(len(pin) == 2 for pin in pins)
    return {canonicalize_name(name): version for name, version in pins}


def test_every_package_that_the_tests_run_with_is_pinned():
    found: set[tuple[str, str]] = set()
    todo = [("sharecap", extra) for extra in ("", "train", "all", "dev")]
    while todo:
        name, extra = todo.pop()
        if (name, extra) in found:
            continue
        found.add((name, extra))
        for line in importlib.metadata.requires(name) or []:
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                todo += [(canonicalize_name(needed.name), other) for other in ("", *needed.extras)]
    assert {name for name, _ in found} - {"sharecap"} <= set(pinned())


def test_the_pins_bring_no_gpu_packages():
    pins = pinned()
    assert pins["torch"] == "2.13.0"
    assert not [name for name in pins if re.match(r"nvidia|cuda|triton|torchvision|sharecap", name)]


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """A directory with what `make` reads, and no environment yet."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def test_make_installs_once(fresh):
    (fresh / ".venv" / "bin").mkdir(parents=True)
    (fresh / ".venv" / "bin" / "python").touch()
    for target in ("quickstart", "test"):
        assert "pip" in run("make", "-n", target, cwd=fresh).stdout
    for stamp in ("run", "dev"):
        (fresh / ".venv" / f"{stamp}.stamp").touch()
    for target in ("quickstart", "test"):
        assert "pip" not in run("make", "-n", target, cwd=fresh).stdout
    later = (fresh / "Makefile").stat().st_mtime + 60
    os.utime(fresh / "constraints.txt", (later, later))
    assert "pip" in run("make", "-n", "quickstart", cwd=fresh).stdout


def test_make_names_the_interpreter_that_it_cannot_use(fresh):
    done = subprocess.run(
        ["make", "quickstart", "PYTHON=no-such-python"],
        cwd=fresh,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "no-such-python is older than Python 3.11 or missing" in done.stderr
    assert not (fresh / ".venv").exists()


def test_continuous_integration_runs_the_same_command():
    script = (ROOT / ".ci" / "run").read_text()
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert script.rstrip().endswith("make test")
