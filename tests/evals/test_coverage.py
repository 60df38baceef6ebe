"""95 % intervals hold the truth as often as they say, for each kind of metric.

The simulation is `benchmarks/coverage.py`, here with small samples, where intervals are easily too narrow,
and 200 of them: a share of 95 % then comes out between 91 and 99. Larger sizes, with 1,000 samples, are in
docs/compare-models.md.
"""

import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

SIMULATION: dict[str, Any] = runpy.run_path(
    str(Path(__file__).resolve().parents[2] / "benchmarks" / "coverage.py"), run_name="coverage"
)
WORLDS = SIMULATION["worlds"](0.15)
# Three of MME's subtasks are enough here: a sum of pairs' figures over strata of 24 images.
WORLDS["mme"] = replace(WORLDS["mme"], metrics=("total", "position"), strata=WORLDS["mme"].strata[:3])


@pytest.mark.parametrize("name", list(WORLDS))
def test_intervals_hold_the_truth_as_often_as_they_say(name: str) -> None:
    for one in SIMULATION["coverages"](name, WORLDS[name], draws=200, population=600):
        assert 0.91 <= one.score <= 0.99, one
        assert 0.91 <= one.difference <= 0.99, one


def test_plain_percentiles_would_hold_it_too_rarely_for_few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight images: what the wider percentiles are for."""
    world = replace(WORLDS["coco-caption"], strata=[(make, 8) for make, _ in WORLDS["coco-caption"].strata])
    (wide,) = SIMULATION["coverages"]("few", world, draws=300, population=600)
    monkeypatch.setattr("sharecap.statistics._Sums.spread", _as_drawn)
    (plain,) = SIMULATION["coverages"]("few", world, draws=300, population=600)
    assert plain.difference + 0.03 < wide.difference
    assert plain.score + 0.03 < wide.score


def _as_drawn(*_: object) -> Any:
    from sharecap.statistics import _Spread

    return _Spread(1e9, 1.0, 0.0, thin=False)
