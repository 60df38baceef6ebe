"""The correction for a judge's errors: exact without noise, and its interval covers the truth.

The simulation is `benchmarks/checked_claims.py`, here with 200 worlds: a share of 95 % then comes out between
91 and 99. More of them are in docs/judge-captions.md.
"""

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sharecap.errors import SharecapError
from sharecap.quality.correction import corrected
from sharecap.quality.wording import VERDICTS

SIMULATION: dict[str, Any] = runpy.run_path(
    str(Path(__file__).resolve().parents[2] / "benchmarks" / "checked_claims.py"), run_name="checked_claims"
)
TRUE = np.array([0.85, 0.1, 0.05])
RATES = np.array([[0.92, 0.05, 0.03], [0.15, 0.80, 0.05], [0.1, 0.1, 0.8]])
"""Of a judge: row, what is true; column, what it says."""


def test_without_noise_the_true_shares_come_out() -> None:
    said = np.tile(TRUE @ RATES * 1e6, (6, 1))
    found = corrected(said, TRUE[:, None] * RATES * 1e9, VERDICTS)
    assert [one.value for one in found] == pytest.approx(list(TRUE), abs=1e-9)
    assert all(one.low is not None and one.high is not None and one.high - one.low < 0.001 for one in found)


def test_the_value_is_what_a_hand_works_out_and_rogan_and_gladen_s_where_all_were_checked() -> None:
    # Six of ten that are called wrong are, and one of twenty that are called right.
    found = corrected(np.array([[30.0, 70.0]]), np.array([[6.0, 1.0], [4.0, 19.0]]), ("wrong", "right"))
    assert found[0].value == pytest.approx(0.3 * 0.6 + 0.7 * 0.05)
    wrong, sensitivity, specificity = 0.2, 0.7, 0.9
    joint = np.array([[sensitivity, 1 - sensitivity], [1 - specificity, specificity]]) * [
        [wrong],
        [1 - wrong],
    ]
    apparent = joint.sum(axis=0)[0]
    found = corrected(1000 * joint.sum(axis=0)[None], 1000 * joint, ("wrong", "right"))
    assert found[0].value == pytest.approx((apparent + specificity - 1) / (sensitivity + specificity - 1))


@pytest.mark.parametrize("by_verdict", [False, True])
@pytest.mark.parametrize("supported", SIMULATION["SUPPORTED"])
def test_in_more_than_nine_of_ten_worlds_the_interval_covers_the_truth(
    supported: float, by_verdict: bool
) -> None:
    """Images differ in how often their captions err; few claims are checked, any or of each verdict alike."""
    found = SIMULATION["measured"](supported, 0.9, by_verdict=by_verdict, images=100, checks=150, worlds=200)
    assert min(found.each) >= 0.9, found
    assert np.mean(found.each) >= 0.92, found
    if supported > 0.5:
        assert found.judged < 0.5  # not put right, the interval is about something else


def test_what_no_check_speaks_for_is_an_error_and_not_a_number() -> None:
    checked = np.array([[50.0, 2, 0], [1, 9, 0], [0, 0, 0]])
    with pytest.raises(SharecapError, match="called unverifiable"):
        corrected(np.array([[8.0, 1.0, 1.0]]), checked, VERDICTS)
    found = corrected(np.array([[8.0, 2.0, 0.0]] * 9), checked, VERDICTS)
    assert found[2].value == 0.0
    assert found[2].high is not None
    assert 0 < found[2].high < 0.1
    assert sum(one.value for one in found) == pytest.approx(1.0)


def test_no_error_in_few_checks_is_no_proof_of_none() -> None:
    (right, wrong) = corrected(
        np.array([[90.0, 10.0]] * 20), np.array([[10.0, 0], [0, 10]]), ("right", "wrong")
    )
    assert right.value == pytest.approx(0.9)
    assert right.low is not None
    assert wrong.high is not None
    assert right.low < 0.8
    assert wrong.high > 0.15
