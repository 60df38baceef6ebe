"""What holds for all tests; disks that are small."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["COLUMNS"] = "140"  # tables are as wide wherever tests run; their worker processes would say 80


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    line = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(line, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small file system takes root")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
