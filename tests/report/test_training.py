"""The page of curves that training leaves."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from sharecap.errors import SharecapError
from sharecap.report.training import lines_of, plots, write


def line(step: int, **more: Any) -> dict[str, Any]:
    """A line of metrics as training writes it (tests/train/test_metrics.py)."""
    return {
        "step": step,
        "loss": 3.0 - step / 10,
        "tokens": 1000,
        "tokens_per_s": 500.0,
        "seconds": 2.0,
        "data_wait_s": 0.5,
        "memory_bytes": 3 * 2**30,
        "gradient_norm": 1.5,
        "gradient_norms": {"vision": 0.5, "language": 1.4},
        "rates": {"language 0 to 1": 1e-4 * step},
        **more,
    }


def test_every_measure_is_drawn_part_by_part_and_what_is_not_measured_is_not() -> None:
    lines = [line(1), line(2, held_out_loss=2.9, mfu=0.4)]
    found = {plot.title: {s.name: (s.xs, s.ys) for s in plot.series} for plot in plots(lines)}
    assert found.pop("Loss") == {
        "learned rows": ((1.0, 2.0), (2.9, 2.8)),
        "held-out rows": ((2.0,), (2.9,)),
    }
    assert found.pop("Rates") == {"language 0 to 1": ((1.0, 2.0), (1e-4, 2e-4))}
    assert list(found.pop("Gradient norms")) == ["whole", "vision", "language"]
    assert {title: lines["run"][1] for title, lines in found.items()} == {
        "Speed": (500.0, 500.0),
        "MFU": (pytest.approx(40),),
        "Waiting for rows": (25.0, 25.0),
        "Memory": (3.0, 3.0),
    }


def test_a_stage_that_was_killed_is_drawn_as_far_as_it_came(tmp_path: Path) -> None:
    (tmp_path / "one.jsonl").write_text(
        "".join(json.dumps(line(n)) + "\n" for n in (1, 2)) + '{"step": 3, "lo'
    )
    assert [x["step"] for x in lines_of(tmp_path / "one.jsonl")] == [1, 2]
    stages = {"align": tmp_path / "one.jsonl", "<sft>": tmp_path / "none.jsonl"}
    written = write("<b>mine</b>", stages, tmp_path / "report.html")
    assert written == tmp_path / "report.html"
    page = written.read_text(encoding="utf-8")
    assert page.count("<svg") >= 6
    assert "Loss from 2.900 to 2.800 (step 2), 500 tokens/s." in page
    assert "<b>mine" not in page
    assert not re.search(r"<script|https?://(?!www\.w3\.org)", page)
    assert write("mine", {"sft": tmp_path / "none.jsonl"}, tmp_path / "other.html") is None
    assert not (tmp_path / "other.html").exists()


@pytest.mark.parametrize(
    "content", [b'{"step": 1, "lo\n', b"[3]\n", b'{"step": 1, "loss": 2.0}\n', b"\xff\n", None]
)
def test_metrics_that_are_none_are_one_line(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "metrics.jsonl"
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(json.dumps(line(1)).encode() + b"\n" + content)
    with pytest.raises(SharecapError, match=r"metrics.*: .*metrics\.jsonl\. the models are whole"):
        write("mine", {"sft": file}, tmp_path / "report.html")


def test_a_loss_that_is_no_number_leaves_a_gap(tmp_path: Path) -> None:
    (tmp_path / "one.jsonl").write_text(
        "".join(
            f"{json.dumps(line(n) | more)}\n" for n, more in enumerate([{}, {"loss": float("nan")}, {}], 1)
        )
    )
    page = write("mine", {"sft": tmp_path / "one.jsonl"}, tmp_path / "report.html")
    assert page is not None
    assert "<svg" in page.read_text()
