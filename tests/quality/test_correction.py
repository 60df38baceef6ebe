"""The correction for a judge's errors: exact without noise, and its interval covers the truth."""

import numpy as np
import pytest

from sharecap.errors import SharecapError
from sharecap.quality.correction import corrected
from sharecap.quality.wording import VERDICTS

TRUE = np.array([0.85, 0.1, 0.05])
RATES = np.array([[0.92, 0.05, 0.03], [0.15, 0.80, 0.05], [0.1, 0.1, 0.8]])
"""Of a judge: row, what is true; column, what it says."""


def test_without_noise_the_true_shares_come_out() -> None:
    said = np.tile(TRUE @ RATES * 1e6, (5, 1))
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


@pytest.mark.parametrize(("images", "checks", "by_verdict"), [(100, 150, False), (200, 300, True)])
def test_in_more_than_nine_of_ten_worlds_the_interval_covers_the_truth(
    images: int, checks: int, by_verdict: bool
) -> None:
    """Images differ in how often their captions err; few claims are checked, any or of each verdict alike."""
    rng, worlds = np.random.default_rng(3), 120
    covered, naive = np.zeros(3), 0
    for _ in range(worlds):
        of_image = rng.dirichlet(TRUE * 20, size=images)
        truth = np.stack([rng.multinomial(12, p) for p in of_image])
        joint = np.stack([[rng.multinomial(n, RATES[k]) for n in truth[:, k]] for k in range(3)])
        said, pairs = joint.sum(axis=0), joint.sum(axis=1)
        if by_verdict:
            shares = [
                rng.multivariate_hypergeometric(column, min(checks // 3, column.sum())) for column in pairs.T
            ]
            checked = np.stack(shares, axis=1)
        else:
            checked = rng.multivariate_hypergeometric(pairs.ravel(), checks).reshape(3, 3)
        found = corrected(said.astype(float), checked.astype(float), VERDICTS)
        covered += [one.low <= p <= one.high for one, p in zip(found, TRUE, strict=True)]
        share = said[:, 0].sum() / said.sum()
        half = 2 * (said[:, 0] / 12).std() / images**0.5
        naive += abs(share - TRUE[0]) <= half
    assert (covered / worlds > 0.9).all(), covered / worlds
    assert naive / worlds < 0.5  # uncorrected, the interval is about something else


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
