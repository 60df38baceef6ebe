"""How often shares of claims, put right for a judge's errors, hold the truth: for docs/judge-captions.md.

Images are drawn whose captions differ in how often they err, then a judge's verdicts on 16 claims of each,
then the claims that a person checks: so many of all, or a third of them of each verdict. The judge is right
in 80, 90 or 98 of 100, and else says either of the other two.
`python benchmarks/checked_claims.py --help`
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sharecap.quality.correction import Counts, corrected
from sharecap.quality.wording import VERDICTS
from sharecap.statistics import Estimate, Mean, intervals

WORLDS = 500
SUPPORTED = (0.5, 0.8, 0.95, 0.98)
RIGHT = (0.8, 0.9, 0.98)
CLAIMS = 16
"""Of an image's caption."""

ALIKE = 20.0
"""How alike the captions are: of the variance of a claim, a part in 21 is between images."""


@dataclass(frozen=True)
class Held:
    """Shares of the intervals that hold the truth."""

    each: list[float]  # of each verdict's share
    judged: float  # of supported claims, as the judge says, not put right
    width: float  # mean, of the share of supported claims


def true_shares(supported: float) -> NDArray[np.float64]:
    """Of each verdict: two of three claims that are not supported are contradicted."""
    return np.array([supported, (1 - supported) * 2 / 3, (1 - supported) / 3])


def measured(
    supported: float, right: float, *, by_verdict: bool, images: int, checks: int, worlds: int
) -> Held:
    """Draw worlds and see how many intervals hold the truth; those with a verdict unchecked have none."""
    rng, truth = np.random.default_rng(7), true_shares(supported)
    held, judged, widths = [], [], []
    for _ in range(worlds):
        joint = drawn(rng, truth, right, images)
        said = joint.sum(axis=1)
        checked = checks_of(rng, joint.sum(axis=0), checks, by_verdict)
        if (said.sum(axis=0) > 0)[checked.sum(axis=0) == 0].any():
            continue
        found = corrected(said, checked, VERDICTS)
        held.append([holds(one, p) for one, p in zip(found, truth, strict=True)])
        widths.append((found[0].high or 1.0) - (found[0].low or 0.0))
        judged.append(holds(as_judged(said), supported))
    return Held(np.mean(held, axis=0).tolist(), float(np.mean(judged)), float(np.mean(widths)))


def drawn(rng: np.random.Generator, truth: NDArray[np.float64], right: float, images: int) -> Counts:
    """[images, true, said] claims."""
    says = np.full((3, 3), (1 - right) / 2)
    np.fill_diagonal(says, right)
    own = rng.dirichlet(truth * ALIKE, size=images)
    return rng.multinomial(rng.multinomial(CLAIMS, own), says).astype(float)


def checks_of(rng: np.random.Generator, claims: Counts, checks: int, by_verdict: bool) -> Counts:
    """[true, said] claims that are checked."""
    whole = claims.astype(int)
    if by_verdict:
        some = [rng.multivariate_hypergeometric(one, min(checks // 3, one.sum())) for one in whole.T]
        return np.stack(some, axis=1).astype(float)
    return rng.multivariate_hypergeometric(whole.ravel(), checks).reshape(3, 3).astype(float)


def as_judged(said: Counts) -> Estimate:
    """The share of supported claims and its interval over images, without checks."""
    images, claims = tuple(map(str, range(len(said)))), tuple(said.sum(axis=1))
    return intervals({"supported": (Mean(1.0, images, tuple(said[:, 0]), claims),)})["supported"]


def holds(one: Estimate, truth: float) -> bool:
    assert one.low is not None
    assert one.high is not None
    return one.low <= truth <= one.high


def cells(given: Sequence[float]) -> str:
    return " | ".join(f"{100 * share:.1f} %" for share in given)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--worlds", type=int, default=WORLDS, help="of each row (default: %(default)s)")
    parser.add_argument("--images", type=int, default=100, help="(default: %(default)s)")
    parser.add_argument("--checks", type=int, default=150, help="checked claims (default: %(default)s)")
    given = parser.parse_args()
    print(f"| supported | judge right | checked | {' | '.join(VERDICTS)} | width | not put right |")
    print("|---:|---:|---|---:|---:|---:|---:|---:|")
    for supported in SUPPORTED:
        for right in RIGHT:
            for by_verdict in (False, True):
                one = measured(
                    supported,
                    right,
                    by_verdict=by_verdict,
                    images=given.images,
                    checks=given.checks,
                    worlds=given.worlds,
                )
                how = "of each verdict" if by_verdict else "of all"
                row = cells([*one.each, one.width, one.judged])
                print(f"| {100 * supported:.0f} % | {100 * right:.0f} % | {how} | {row} |", flush=True)


if __name__ == "__main__":
    main()
