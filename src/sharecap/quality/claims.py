"""Without references: what share of a caption's claims does the picture support? A judge says (as FActScore).

The judge splits each caption into claims, sentence by sentence, from the words alone; then each claim is a
question about the picture. Verdicts go to DATASET/scores/LAYER.claims.jsonl, by sentence, where curation and
people find them. What failed is listed beside them, and never counts as a verdict.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from sharecap.captions.sentences import sentences
from sharecap.errors import SharecapError, UsageError
from sharecap.quality.cases import Bench, Case
from sharecap.quality.correction import corrected
from sharecap.quality.mending import mended
from sharecap.quality.sample import Row, drawn
from sharecap.quality.shares import shares_of, wilson
from sharecap.quality.shown import lost, number, percent, took
from sharecap.quality.shown import rows as rows_of
from sharecap.quality.verdicts import (
    Failure,
    Verdict,
    path_of,
    place_of,
    read_verdicts,
    write_for_page,
    write_lines,
)
from sharecap.quality.wording import (
    DIGEST,
    VERDICTS,
    check_prompt,
    read_claims,
    read_verdict,
    split_prompt,
)
from sharecap.statistics import Estimate, Mean, intervals

SPLIT_TOKENS, CHECK_TOKENS = 2_048, 256
"""Tokens of an answer: a list of claims, or one word that some models think about first."""


@dataclass(frozen=True)
class ClaimsReport:
    """What a judge makes of a layer. Shares are of the claims with a verdict, images the unit of chance."""

    layer: str
    judge: str
    images: int  # captions that were drawn
    split: int  # of these, captions that the judge split into claims
    claims: int  # claims with a verdict
    per_caption: Estimate | None  # claims, of captions that were split
    shares: dict[str, Estimate]  # verdict -> share of the claims; empty without claims
    clean: Estimate | None  # captions without a contradicted claim, of those with a verdict
    failures: dict[str, int]  # "split: KIND" or "check: KIND" -> captions or claims
    requests: int
    cost_usd: float | None
    path: str
    on_page: bool  # the page shows them; not where it has scores of the layer from elsewhere
    mended: int  # sentences with a contradicted claim
    edits: str  # file with an edit of each of these, for `sharecap edit`; "" where there is none
    corrected: dict[str, Estimate] = field(default_factory=dict)  # the same shares, put right by checked ones
    checked: int = 0  # claims that people checked


def judge_claims(
    bench: Bench, layer: str, *, images: int | None = None, checked: Path | None = None
) -> ClaimsReport:
    """Have the claims of a layer's captions judged, all or those of so many images, and write the verdicts.

    `checked` are lines of an earlier LAYER.claims.jsonl whose verdict a person has put right, for the
    correction. Raises what `Bench.ask` raises, and `UsageError` where the judge wrote the captions itself.
    """
    rows = drawn(bench.dataset, [layer], images)
    bench.refuse_captioners({caption.captioner for _, (caption,) in rows})
    truth = {place_of(one): one.verdict for one in read_verdicts(checked)} if checked else {}
    verdicts, failures, split = _judged(bench, layer, rows)
    counts = dict(sorted(Counter(f"{one.stage}: {one.kind}" for one in failures).items()))
    path, beside = path_of(bench.dataset, layer, "claims"), path_of(bench.dataset, layer, "claims-failed")
    write_lines(beside, failures)
    if failures and not verdicts:
        what = f"not one claim got a verdict ({', '.join(f'{n:,} {kind}' for kind, n in counts.items())})"
        todo = "mend what stands there, then run the same command with --retry-failed"
        raise SharecapError(what, where=beside, todo=todo)
    write_lines(path, verdicts)
    texts = {image.id: caption.text for image, (caption,) in rows}
    changes = mended(texts, verdicts)
    edits = path_of(bench.dataset, layer, "mend")
    write_lines(edits, changes)
    shown = write_for_page(bench.dataset, layer, verdicts, texts)
    right = [(truth[key], one) for one in verdicts if (key := place_of(one)) in truth]
    if checked and not right:
        raise UsageError("no checked claim is among the judged ones", where=checked)
    per_caption, shares, clean = _estimates(verdicts, split)
    return ClaimsReport(
        layer=layer,
        judge=bench.name,
        images=len(rows),
        split=len(split),
        claims=len(verdicts),
        per_caption=per_caption,
        shares=shares,
        clean=clean,
        failures=counts,
        requests=sum(report.requests for report in bench.reports),
        cost_usd=bench.spent_usd if bench.price else None,
        path=str(path),
        on_page=shown,
        mended=len(changes),
        edits=str(edits) if changes else "",
        corrected=_corrected(verdicts, right) if right else {},
        checked=len(right),
    )


def _judged(
    bench: Bench, layer: str, rows: Sequence[Row]
) -> tuple[list[Verdict], list[Failure], dict[str, int]]:
    """(verdicts, failures, image -> number of claims that its caption was split into)."""
    failures: list[Failure] = []
    verdicts: list[Verdict] = []
    asked = [
        (image, len(texts), Case(split_prompt(texts), image.id))
        for image, (caption,) in rows
        if (texts := sentences(caption.text))
    ]
    answers = bench.ask(layer, "split", [case for _, _, case in asked], SPLIT_TOKENS)
    claims, split = [], {}
    for image, of, case in asked:
        found, kind, raw = answers.read(case, partial(read_claims, sentences=of))
        if found is None:
            failures.append(Failure(image.id, layer, "split", kind, raw=raw))
            continue
        split[image.id] = len(found)
        claims += [(image, at, text, Case(check_prompt(text), image.id, image)) for at, text in found]
    answers = bench.ask(layer, "check", [case for _, _, _, case in claims], CHECK_TOKENS)
    for image, at, text, case in claims:
        verdict, kind, raw = answers.read(case, read_verdict)
        if verdict is None:
            failures.append(Failure(image.id, layer, "check", kind, at, text, raw))
        else:
            verdicts.append(
                Verdict(
                    image.id,
                    layer,
                    sentence=at,
                    claim=text,
                    verdict=verdict,
                    raw=raw,
                    judge=bench.name,
                    prompt=DIGEST,
                )
            )
    return verdicts, failures, split


def _estimates(
    verdicts: Sequence[Verdict], split: dict[str, int]
) -> tuple[Estimate | None, dict[str, Estimate], Estimate | None]:
    """(claims per caption, verdict -> share, share of captions without a contradicted claim)."""
    images = [one.image for one in verdicts]
    shares = shares_of(images, [one.verdict for one in verdicts], VERDICTS)
    wrong = {one.image for one in verdicts if one.verdict == "contradicted"}
    clean = wilson([float(image not in wrong) for image in dict.fromkeys(images)]) if images else None
    if not split:
        return None, shares, clean
    number_of = (Mean(1.0, tuple(split), tuple(map(float, split.values()))),)
    return intervals({"claims": number_of})["claims"], shares, clean


def _corrected(verdicts: Sequence[Verdict], right: Sequence[tuple[str, Verdict]]) -> dict[str, Estimate]:
    place = {name: n for n, name in enumerate(VERDICTS)}
    images = {image: n for n, image in enumerate(dict.fromkeys(one.image for one in verdicts))}
    said, checked = np.zeros((len(images), len(VERDICTS))), np.zeros((len(VERDICTS), len(VERDICTS)))
    for one in verdicts:
        said[images[one.image], place[one.verdict]] += 1
    for true, one in right:
        checked[place[true], place[one.verdict]] += 1
    return dict(zip(VERDICTS, corrected(said, checked, VERDICTS), strict=True))


def claims_lines(report: ClaimsReport) -> list[str]:
    """For people."""
    lines = [
        f"layer {report.layer}, judged by {report.judge}: {report.claims:,} claims in {report.split:,} of "
        f"{report.images:,} captions",
        *rows_of(report.shares),
    ]
    if report.clean:
        lines.append(f"captions without a contradicted claim: {percent(report.clean).strip()}")
    if report.per_caption:
        lines.append(f"claims per caption: {number(report.per_caption)}")
    if report.corrected:
        lines.append(f"put right for the judge's errors on {report.checked:,} checked claims:")
        lines += rows_of(report.corrected)
    lines += [*lost(report.failures), took(report.requests, report.cost_usd)]
    shown = "" if report.on_page else "; the page shows the layer's other scores"
    lines.append(f"verdicts in {report.path}{shown}" if report.claims else "no claim, so no verdict was kept")
    if report.edits:
        told = f"{report.mended:,} sentences with a contradicted claim"
        lines.append(f"{told}: `sharecap edit --edits` mends them with {report.edits}")
    return lines
