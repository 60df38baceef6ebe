"""A comparison of models as one picture: a whisker a benchmark and model, all on one scale.

Differences of each benchmark's own metric in points of 100, so that MME's sum stands beside accuracies.
"""

from collections.abc import Sequence
from pathlib import Path

from sharecap.errors import SharecapError, UsageError
from sharecap.evals.comparison import RunComparison
from sharecap.report.document import Interval, Number
from sharecap.report.whiskers import draw_whiskers
from sharecap.statistics import Estimate

ENDINGS = (".png", ".svg")


def check_plot(path: Path) -> None:
    """`UsageError` unless a picture can be written there, before any work is done."""
    if path.suffix.lower() not in ENDINGS:
        raise UsageError(
            "no kind of picture that is known", where=path, todo=f"end it in {' or '.join(ENDINGS)}"
        )
    if not path.parent.is_dir():
        raise UsageError("no such directory", where=path.parent)
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise SharecapError("a picture needs matplotlib", todo="pip install 'sharecap[train]'") from None


def draw_differences(found: Sequence[RunComparison], path: Path) -> Path:
    """Write the picture; what stays decided after the correction is drawn in the accent colour."""
    rows: list[tuple[str, Interval | Number]] = []
    strong = []
    for one in found:
        beside = f" ({one.b})" if len(found) > 1 else ""
        for task, (metric, out_of) in one.headlines.items():
            if one.corrected.get(task, 1.0) < 1 - one.level:
                strong.append(len(rows))
            rows.append((task + beside, _points(one.benchmarks[task][metric].difference, 100 / out_of)))
        if len(one.headlines) > 1:
            rows.append((f"overall{beside}", _points(one.overall.difference, 1.0)))
    others = found[0].b if len(found) == 1 else "each model"
    return draw_whiskers(
        rows,
        path,
        title=f"{found[0].a} less {others}",
        axis=f"points of 100, paired {found[0].level:.0%} interval",
        strong=strong,
    )


def _points(one: Estimate, factor: float) -> Interval | Number:
    if one.low is None or one.high is None:
        return Number(one.value * factor)
    return Interval(one.value * factor, one.low * factor, one.high * factor)
