"""A table of the lab as one page, one picture and one JSON file, for someone who hasn't read the paper.

Every number is read from exams and manifests; the paper's stand beside them, marked as the paper's.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sharecap.artifact import plain, write_atomically
from sharecap.report import document as d
from sharecap.report.html import write_report
from sharecap.report.tables import number
from sharecap.report.whiskers import draw_whiskers
from sharecap.scenes.lab_scores import MARGIN, Outcome, Tried
from sharecap.statistics import Estimate

STATUS: dict[str, Any] = {"agrees": "good", "contradicts": "bad", "can't tell": "neutral"}


def write(found: Outcome, to: Path) -> Path:
    """Write NAME.html, NAME.png and NAME.json into `to`; returns the page's path."""
    name = found.experiment.name
    to.mkdir(parents=True, exist_ok=True)
    write_atomically(to / f"{name}.json", json.dumps(as_data(found), indent=1, ensure_ascii=False))
    better = {claim.row for claim in found.experiment.claims}
    draw_whiskers(
        [(row.design.name, interval(row.score, difference=False)) for row in found.rows],
        to / f"{name}.png",
        title=found.experiment.title,
        axis=f"overall score of 100, 95 % interval{' over seeds' if len(found.seeds) > 1 else ''}",
        strong=[place for place, row in enumerate(found.rows) if row.design.name in better],
    )
    return write_report(page(found), to / f"{name}.html")


def as_data(found: Outcome) -> dict[str, Any]:
    """For `--json`."""
    experiment = found.experiment
    return {
        "experiment": experiment.name,
        "where": experiment.where,
        "claim": experiment.claim,
        "seeds": list(found.seeds),
        "questions": found.questions,
        "rows": [plain(asdict(row)) for row in found.rows],
        "claims": [plain(asdict(one)) | {"verdict": one.verdict} for one in found.tried],
    }


def lines(found: Outcome) -> Iterator[str]:
    """For people."""
    experiment = found.experiment
    yield f"{experiment.name}: {experiment.title} ({experiment.where or 'beyond the paper'})"
    width = max(len(row.design.name) for row in found.rows)
    for row in found.rows:
        yield f"  {row.design.name:<{width}}  {between(row.score, signed=False)}"
    for one in found.tried:
        yield f"  {sentence(one)}"


def sentence(one: Tried) -> str:
    """A claim, its figures and the verdict."""
    how = "about as good as" if one.claim.equal else "better than"
    told = f"“{one.claim.row}” {how} “{one.claim.than}”: {between(one.difference)}"
    paper = f"; the paper: {one.claim.paper}" if one.claim.paper else ""
    return f"{told}, {one.verdict}{paper}"


def between(found: Estimate, *, signed: bool = True) -> str:
    """A value with its interval."""
    if found.low is None or found.high is None:
        return number(found.value, signed=signed)
    low, high = (number(x, signed=signed) for x in (found.low, found.high))
    return f"{number(found.value, signed=signed)} ({low} to {high})"


def page(found: Outcome) -> d.Report:
    """The whole page."""
    experiment = found.experiment
    blocks: list[d.Block] = [d.Verdict(f"{sentence(one)}.", STATUS[one.verdict]) for one in found.tried]
    how = (
        "Student's intervals over the seeds" if len(found.seeds) > 1 else "intervals over one seed's pictures"
    )
    table = d.Table(
        ("Model", "Overall, of 100", *(kind.capitalize() for kind in found.rows[0].kinds), "Minutes"),
        tuple(
            (
                row.design.name,
                interval(row.score, difference=False),
                *(d.Number(value) for value in row.kinds.values()),
                d.Number(row.seconds / 60),
            )
            for row in found.rows
        ),
        title="Every model",
        note=f"Overall: the mean of MME, MMBench and VQAv2, each on a scale of 100, with 95 % {how}. Then "
        "right answers by kind of question, per cent. Minutes: pre-training, tuning and exam, on one core.",
        strong=1,
    )
    claims = d.Table(
        ("Claim", "Difference", "Seed by seed", "In the paper", "Verdict"),
        tuple(
            (
                f"{one.claim.row} {'≈' if one.claim.equal else '>'} {one.claim.than}",
                interval(one.difference, difference=True),
                ", ".join(number(each.value, signed=True) for each in one.seeds),
                one.claim.paper or None,
                one.verdict,
            )
            for one in found.tried
        ),
        title="Every claim",
        note="Differences in points of 100, paired: both models answered the same questions. A claim of "
        "better agrees when the whole interval is above zero; one of about as good, when it lies within "
        f"±{MARGIN:g}.",
        strong=1,
    )
    notes = [d.Paragraph(f"How this small world differs: {experiment.note}")] if experiment.note else []
    return d.Report(
        title=experiment.title,
        lead=experiment.claim,
        facts=(
            d.Fact("Where", experiment.where or "beyond the paper"),
            d.Fact(
                "Models",
                f"{len(found.rows) * len(found.seeds)}",
                f"in {len(found.seeds)} world{'s' * (len(found.seeds) > 1)}",
            ),
            d.Fact("Questions", f"{found.questions:,}", "to each model"),
        ),
        sections=(
            d.Section("What came out", (*blocks, *curve(found))),
            d.Section("The table", (table, claims, *notes)),
            d.Section("What follows", (d.Paragraph(f"If the claim is true: {experiment.follows}"),)),
        ),
    )


def curve(found: Outcome) -> Iterator[d.Block]:
    """Scores along the field that an experiment varies, with the interval's ends as a band."""
    along = found.experiment.curve
    if not along:
        return
    xs = tuple(float(getattr(row.design, along)) for row in found.rows)
    scores = [row.score for row in found.rows]
    series = [d.Series("overall", xs, tuple(score.value for score in scores), emphasis=True)]
    if all(score.low is not None and score.high is not None for score in scores):
        series += [
            d.Series("95 % from", xs, tuple(score.low or 0.0 for score in scores)),
            d.Series("95 % to", xs, tuple(score.high or 0.0 for score in scores)),
        ]
    names = {
        "images": "share of the captions",
        "tower": "share of the blocks",
        "mistakes": "share told wrong",
    }
    yield d.Plot(found.experiment.title, tuple(series), names[along], "overall score of 100")


def interval(found: Estimate, *, difference: bool) -> d.Interval | d.Number:
    """As a table's cell."""
    if found.low is None or found.high is None:
        return d.Number(found.value)
    return d.Interval(found.value, found.low, found.high, difference=difference)
