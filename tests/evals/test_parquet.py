"""Benchmarks as the hub keeps them: Parquet with the pictures inside."""

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sharecap.errors import SharecapError
from sharecap.evals.suite import find_tasks


def png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(stream, "PNG")
    return stream.getvalue()


def mmstar(root: Path, image: Any) -> Path:
    (root / "mmstar").mkdir()
    row = {"index": 7, "question": "Which? A: x, B: y", "image": image, "answer": "B", "category": "math"}
    path = root / "mmstar" / "mmstar.parquet"
    pq.write_table(pa.Table.from_pylist([row]), path)
    return path


@pytest.mark.parametrize("image", [png(), {"bytes": png(), "path": "7.png"}])
def test_mmstar_is_read_from_parquet(tmp_path: Path, image: Any) -> None:
    mmstar(tmp_path, image)
    ((task,), _) = find_tasks(tmp_path)
    (sample,) = task.samples
    assert (sample.id, sample.reference, sample.kind) == ("7", "B", "math")
    assert sample.images == (png(),)


def test_a_cell_without_bytes_and_half_a_file_are_one_clear_line(tmp_path: Path) -> None:
    path = mmstar(tmp_path, {"bytes": None, "path": "7.png"})
    with pytest.raises(SharecapError, match="row 7: the cell holds no image"):
        find_tasks(tmp_path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(SharecapError, match="not a Parquet file"):
        find_tasks(tmp_path)
