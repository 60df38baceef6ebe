"""The correction for a judge's known errors: exact without noise, and its interval covers the truth."""

import numpy as np
import pytest

from sharecap.errors import SharecapError
from sharecap.quality.correction import corrected
from sharecap.quality.wording import VERDICTS

TRUE = np.array([0.85, 0.1, 0.05])
NEVER = np.array([[50.0, 2, 0], [1, 9, 0], [0, 0, 0]])
"""Checked verdicts, none of them on anything unverifiable."""
RATES = np.array([[0.92, 0.05, 0.03], [0.15, 0.80, 0.05], [0.1, 0.1, 0.8]])
"""Of a judge: row, what is true; column, what it says."""


def test_without_noise_the_true_shares_come_out() -> None:
    said = np.tile(TRUE @ RATES * 1e6, (5, 1))
    found = corrected(said, RATES * 1e9, VERDICTS)
    assert [one.value for one in found] == pytest.approx(list(TRUE), abs=1e-9)
    assert all(one.low is not None and one.high is not None and one.high - one.low < 0.001 for one in found)


def test_of_two_verdicts_it_is_rogan_and_gladen_s() -> None:
    sensitivity, specificity, apparent = 0.7, 0.9, 0.3
    checked = 1000 * np.array([[sensitivity, 1 - sensitivity], [1 - specificity, specificity]])
    found = corrected(np.array([[300.0, 700.0]]), checked, ("wrong", "right"))
    assert found[0].value == pytest.approx((apparent + specificity - 1) / (sensitivity + specificity - 1))


@pytest.mark.parametrize(("images", "checks"), [(100, 200), (200, 150)])
def test_in_nineteen_of_twenty_worlds_the_interval_covers_the_truth(images: int, checks: int) -> None:
    """Images differ in how often their captions err, as real ones do, and the checked verdicts are few."""
    rng, worlds = np.random.default_rng(3), 120
    covered, naive = np.zeros(3), 0
    for _ in range(worlds):
        of_image = rng.dirichlet(TRUE * 20, size=images)
        truth = np.stack([rng.multinomial(12, p) for p in of_image])
        said = sum(np.stack([rng.multinomial(n, RATES[k]) for n in truth[:, k]]) for k in range(3))
        of_kind = rng.multinomial(checks, TRUE)
        checked = np.stack([rng.multinomial(n, RATES[k]) for k, n in enumerate(of_kind)])
        found = corrected(said.astype(float), checked.astype(float), VERDICTS)
        covered += [one.low <= p <= one.high for one, p in zip(found, TRUE, strict=True)]
        share = said[:, 1].sum() / said.sum()
        half = 2 * (said[:, 1] / 12).std() / images**0.5
        naive += abs(share - TRUE[1]) <= half
    assert (covered / worlds >= 0.92).all(), covered / worlds
    assert naive / worlds < 0.5  # uncorrected, the interval is about something else


def test_what_no_check_speaks_for_is_an_error_and_not_a_number() -> None:
    said = np.array([[8.0, 1.0, 1.0]])
    with pytest.raises(SharecapError, match="truly 'unverifiable'"):
        corrected(said, NEVER, VERDICTS)
    with pytest.raises(SharecapError, match="better than chance"):
        corrected(said, np.array([[50.0, 25, 25], [50, 25, 25], [1, 1, 10]]), VERDICTS)


def test_a_verdict_that_is_neither_said_nor_true_has_no_share() -> None:
    found = corrected(np.array([[8.0, 2.0, 0.0]] * 9), NEVER, VERDICTS)
    assert (found[2].value, found[2].low, found[2].high) == (0.0, 0.0, 0.0)
    assert sum(one.value for one in found) == pytest.approx(1.0)


def test_shares_stay_shares_where_noise_leads_out_of_them() -> None:
    """A judge that errs more than it did in the checks: less than nothing can't be contradicted."""
    found = corrected(
        np.array([[99.0, 1.0, 0.0]] * 5), np.array([[80.0, 20, 0], [5, 95, 0], [0, 0, 0]]), VERDICTS
    )
    assert (found[1].value, found[1].low) == (0.0, 0.0)
    assert found[0].value == 1.0
