"""A table of the lab as one page, one picture and one JSON file, for someone who hasn't read the paper.

Every number is read from exams and manifests; the paper's stand beside them, marked as published.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sharecap.artifact import plain, write_atomically
from sharecap.images.dataset import disk_errors
from sharecap.recipes.design import Experiment
from sharecap.recipes.peers import BENCHMARKS, MARKS, PEERS
from sharecap.report import document as d
from sharecap.report.html import write_report
from sharecap.report.tables import dollars, number
from sharecap.report.whiskers import draw_whiskers
from sharecap.scenes import lab_captions, lab_scores, lab_spent
from sharecap.scenes.lab import Bench
from sharecap.scenes.lab_memory import memory_and_time
from sharecap.scenes.lab_scores import Cell, Detail, Outcome, Tried
from sharecap.scenes.lab_spent import Spent
from sharecap.statistics import Estimate

STATUS: dict[str, Any] = {"agrees": "good", "contradicts": "bad", "can't tell": "neutral"}
ALONG = {"images": "share of the captions", "tower": "share of the blocks", "mistakes": "share told wrong"}


def read(experiment: Experiment, benches: Mapping[int, Bench]) -> tuple[Outcome, Spent]:
    """What came out in these worlds, and what it took; `SharecapError` for what isn't there."""
    spent = lab_spent.spent(experiment, benches.values())
    if experiment.captioners:
        return lab_captions.outcome(experiment, benches), spent
    found = lab_scores.outcome(experiment, benches)
    more = [lab_spent.by_model(experiment, benches)]
    if experiment.curve == "tower":
        more.append(memory_and_time(experiment.designs, benches))
    if experiment.name == "main_table":
        more.append(peers())
    return replace(found, details=(*found.details, *more)), spent


def peers() -> Detail:
    """The paper's main table as published."""
    rows = tuple((f"{one.model}, {one.language}", tuple(s or None for s in one.scores)) for one in PEERS)
    note = f"Published, none of it measured here, and of eleven real benchmarks. {MARKS}"
    return Detail("In the paper, with its peers", ("Published", *BENCHMARKS), rows, note)


def write(found: Outcome, spent: Spent, to: Path) -> Path:
    """Write NAME.html, NAME.png and NAME.json into `to`; the page's path. `SharecapError` if it can't."""
    name = found.experiment.name
    with disk_errors(to):
        to.mkdir(parents=True, exist_ok=True)
        write_atomically(to / f"{name}.json", json.dumps(as_data(found, spent), indent=1, ensure_ascii=False))
        picture = draw(found, to / f"{name}.png")
    return write_report(page(found, spent, picture.read_bytes()), to / f"{name}.html")


def draw(found: Outcome, path: Path) -> Path:
    """Every row with its interval."""
    better = {claim.row for claim in found.experiment.claims}
    return draw_whiskers(
        [(row.name, interval(row.score, signed=False)) for row in found.rows],
        path,
        title=found.experiment.title,
        axis=f"{found.measure}, 95 % interval {over(found)}",
        strong=[place for place, row in enumerate(found.rows) if row.name in better],
    )


def over(found: Outcome) -> str:
    """What the intervals are over."""
    return f"over {len(found.seeds)} worlds" if len(found.seeds) > 1 else "over one world's pictures"


def as_data(found: Outcome, spent: Spent) -> dict[str, Any]:
    """For `--json`."""
    experiment = found.experiment
    return {
        "experiment": experiment.name,
        "title": experiment.title,
        "where": experiment.where,
        "claim": experiment.claim,
        "seeds": list(found.seeds),
        "measure": found.measure,
        "asked": found.asked,
        "rows": [plain(asdict(row)) for row in found.rows],
        "claims": [
            plain(asdict(one)) | {"verdict": one.verdict, "margin": one.claim.margin} for one in found.tried
        ],
        "details": [plain(asdict(one)) for one in found.details],
        "against": list(found.against),
        "spent": asdict(spent),
    }


def lines(found: Outcome, spent: Spent) -> Iterator[str]:
    """For people."""
    experiment = found.experiment
    yield f"{experiment.name}: {experiment.title} ({experiment.where or 'beyond the paper'})"
    width = max(len(row.name) for row in found.rows)
    for row in found.rows:
        yield f"  {row.name:<{width}}  {between(row.score, signed=False)}"
    for one in found.tried:
        yield f"  {sentence(one)}"
    yield from (f"  {told}" for told in beside(found))
    paid = "" if spent.teacher_usd is None else f", teacher {dollars(spent.teacher_usd)} as if paid"
    yield f"  {number(spent.core_minutes, 0)} core-minutes{paid}"


def sentence(one: Tried) -> str:
    """A claim, its figures and the verdict."""
    how = {
        ("score", False): "better than",
        ("score", True): "about as good as",
        ("facts", False): "states facts better than",
        ("facts", True): "states facts about as well as",
        ("preference", False): "preferred to",
        ("preference", True): "preferred about as often as",
    }[one.claim.measure, one.claim.equal]
    told = f"“{one.claim.row}” {how} “{one.claim.than}”: {between(one.difference)} points, {one.verdict}"
    return f"{told}; the paper: {one.claim.paper}" if one.claim.paper else told


def between(found: Estimate, *, signed: bool = True, digits: int = 1) -> str:
    """A value with its interval."""
    value = number(found.value, digits, signed=signed)
    if found.low is None or found.high is None:
        return value
    low, high = (number(x, digits, signed=signed) for x in (found.low, found.high))
    return f"{value} ({low} to {high})"


def page(found: Outcome, spent: Spent, picture: bytes) -> d.Report:
    """The whole page: what came out, the tables, what follows, what it took."""
    experiment, worlds = found.experiment, len(found.seeds)
    verdicts = [d.Verdict(f"{sentence(one)}.", STATUS[one.verdict]) for one in found.tried]
    notes = [d.Paragraph(f"How this small world differs: {experiment.note}")] if experiment.note else []
    drawn = d.Picture(picture, f"{experiment.title}: every row with its 95 % interval {over(found)}")
    return d.Report(
        title=experiment.title,
        lead=experiment.claim,
        facts=(
            d.Fact("Where", experiment.where or "beyond the paper"),
            d.Fact("Worlds", f"{worlds}", f"{len(found.rows)} rows in each; {found.asked}"),
            d.Fact("Time", f"{number(spent.core_minutes, 0)} core-minutes", "of all stages behind this page"),
            d.Fact("Teacher", dollars(spent.teacher_usd or 0.0), "as if paid"),
        ),
        sections=(
            d.Section("What came out", (*verdicts, *map(d.Paragraph, beside(found)), drawn, *curve(found))),
            d.Section("The tables", (scores(found), claims(found), *map(table, found.details))),
            d.Section("What follows", (d.Paragraph(follows(found)), *notes)),
            d.Section("What it took", (d.Paragraph(lab_spent.told(spent, worlds)),)),
        ),
    )


def beside(found: Outcome) -> list[str]:
    """What the verdicts on the overall score don't tell: benchmarks that say otherwise, and luck."""
    told = []
    if found.against:
        told.append(f"The verdicts are of the overall score; {'; '.join(found.against)}.")
    if len(found.seeds) == 1:
        told.append(
            "This is one world only: how lucky its models were in learning is not in the intervals, which "
            "are over its pictures. Three worlds (--seeds 3) tell."
        )
    return told


def scores(found: Outcome) -> d.Table:
    """Every row with its score and the score's parts."""
    return d.Table(
        ("Row", found.measure.capitalize(), *(kind.capitalize() for kind in found.rows[0].kinds)),
        tuple(
            (row.name, interval(row.score, signed=False), *map(d.Number, row.kinds.values()))
            for row in found.rows
        ),
        title="Every row",
        note=(
            f"With 95 % intervals {over(found)}; then its parts, per cent. "
            + (
                "Overall is the mean of MME, MMBench and VQAv2, each on a scale of 100."
                if found.experiment.designs
                else "F1 is of precision over all stated facts and recall of what a full description tells."
            )
        ),
        strong=1,
    )


def claims(found: Outcome) -> d.Table:
    """Every claim with its difference and verdict."""
    margins = {
        f"±{one.claim.margin:g} points of {one.claim.measure}" for one in found.tried if one.claim.equal
    }
    equal = ""
    if margins:
        equal = (
            " A claim of about the same agrees when the whole interval lies within "
            f"{' and '.join(sorted(margins))}, and contradicts when it lies outside: the margins were fixed "
            "before any run."
        )
    return d.Table(
        ("Claim", "Difference", "p", "Seed by seed", "In the paper", "Verdict"),
        tuple(
            (
                f"{one.claim.row} {'≈' if one.claim.equal else '>'} {one.claim.than} ({one.claim.measure})",
                interval(one.difference, signed=True),
                d.Number(one.p, 3) if one.p is not None else None,
                ", ".join(number(each.value, signed=True) for each in one.seeds),
                one.claim.paper or None,
                one.verdict,
            )
            for one in found.tried
        ),
        title="Every claim",
        note="Differences in points, paired: both were asked the same. Intervals and p (the chance of such a "
        f"difference where there is none) are {over(found)}"
        + (", by Student's t." if len(found.seeds) > 1 else ", and speak of that world only.")
        + " A claim of better agrees when the whole interval is above zero, and contradicts when it is below."
        + equal,
        strong=1,
    )


def table(one: Detail) -> d.Table:
    """A detail as a page has it."""
    rows = tuple((name, *(cell_of(cell, one) for cell in cells)) for name, cells in one.rows)
    return d.Table(one.columns, rows, title=one.title, note=one.note)


def cell_of(cell: Cell, one: Detail) -> d.Cell:
    """As a table's cell."""
    if isinstance(cell, Estimate):  # in words: columns here have scales of their own, and there are many
        return between(cell, signed=one.signed, digits=one.digits)
    return d.Number(cell, one.digits) if isinstance(cell, float) else cell


def follows(found: Outcome) -> str:
    """What follows, as far as the verdicts go."""
    verdicts = {one.verdict for one in found.tried}
    told = found.experiment.follows
    if not verdicts:
        return f"Nothing was claimed. What the rows were meant to tell: {told}"
    if verdicts == {"agrees"}:
        return f"Every claim holds here. {told}"
    if "contradicts" in verdicts:
        return f"Not every claim holds here, so this is no ground for what would follow: {told}"
    if len(verdicts) > 1:
        return f"Some claims hold here and none is contradicted. If all are true: {told}"
    return f"Not decided here: the intervals are too wide. If the claim is true: {told}"


def curve(found: Outcome) -> Iterator[d.Block]:
    """Scores along the field that an experiment varies, with the interval's ends as a band."""
    along = found.experiment.curve
    if not along:
        return
    xs = tuple(float(getattr(design, along)) for design in found.experiment.designs)
    rows = [row.score for row in found.rows]
    series = [d.Series("overall", xs, tuple(score.value for score in rows), emphasis=True)]
    if all(score.low is not None and score.high is not None for score in rows):
        series += [
            d.Series("95 % from", xs, tuple(score.low or 0.0 for score in rows)),
            d.Series("95 % to", xs, tuple(score.high or 0.0 for score in rows)),
        ]
    yield d.Plot(found.experiment.title, tuple(series), ALONG[along], found.measure)


def interval(found: Estimate, *, signed: bool, digits: int = 1) -> d.Interval | d.Number:
    """As a table's cell; `signed` for differences."""
    if found.low is None or found.high is None:
        return d.Number(found.value, digits)
    return d.Interval(found.value, found.low, found.high, digits, difference=signed)
