"""The benchmark for a GPU runs on any machine with a tiny shape, so that it is whole when a GPU is there."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_it_runs_on_a_cpu_and_writes_its_figures(tmp_path: Path) -> None:
    names = ["without compiling", "padded, by transformers alone"]
    few = ["--shape", "tiny", "--steps", "1", "--warm-up", "1", "--tokens", "120"]
    line = [sys.executable, str(ROOT / "benchmarks/train_gpu.py"), *few]
    line += ["--json", str(tmp_path / "figures.json"), "--only", *names]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads((tmp_path / "figures.json").read_text())["figures"]
    assert set(figures) == set(names)
    assert all(value["tokens_per_s"] > 0 and value["tflop_per_s"] > 0 for value in figures.values())
