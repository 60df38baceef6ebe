"""Killed again and again under faults: what the server's own log says is covered by the ledger."""

from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_no_kill_loses_an_answer_pays_twice_unbooked_or_crosses_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The benchmark asserts all three after every kill and every round; here a dozen kills."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    import kills

    counts = kills.random_kills(tmp_path, images=120, kills=12, seed=1)
    assert counts["kills"] == 12
    assert counts["captions"] + counts["named failures"] == 120 * counts["rounds"]
    assert counts["server said 200"] >= 120
