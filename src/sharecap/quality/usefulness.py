"""What can be answered about a picture from its caption alone: how useful it is to who learns from it.

A judge that sees the picture writes questions with four answers, some of which depend on others (as in
Davidsonian scene graphs, arXiv 2310.18235); then it is asked them with the caption in the picture's place
(CapRL's measure). Claims tell what a caption says wrong, this what it leaves out. The questions know no
layer, so layers of one dataset are asked the same ones, and their difference is paired by image.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from sharecap.artifact import write_atomically
from sharecap.captions.page_files import SCORES
from sharecap.errors import SharecapError
from sharecap.images.dataset import disk_errors
from sharecap.quality.cases import Bench, Case
from sharecap.quality.sample import Row, drawn
from sharecap.quality.shares import shares_of
from sharecap.quality.shown import lost, points, rows, took
from sharecap.quality.wording import (
    DIGEST,
    NOT_TOLD,
    Question,
    answer_prompt,
    read_letter,
    read_questions,
    write_prompt,
)
from sharecap.statistics import Estimate, Mean, compare

WRITE_TOKENS, ANSWER_TOKENS = 2_048, 256

OUTCOMES = ("right", "not told", "wrong")
"""What becomes of a question. The order is that of the table."""


@dataclass(frozen=True)
class Outcome:
    """One line of LAYER.answers.jsonl: a question, and what the caption alone gave as its answer."""

    image: str
    layer: str
    number: int
    question: str
    options: tuple[str, ...]
    right: str  # letter
    said: str  # letter, or "E"
    outcome: str  # one of OUTCOMES; "not told" too where the question that it depends on isn't answered right
    judge: str
    prompt: str  # digest of the wording of the questions


@dataclass(frozen=True)
class UsefulReport:
    """What captions answer. Shares are of the questions that got an answer, images the unit of chance."""

    judge: str
    images: int  # that were drawn
    asked: int  # images that the judge wrote questions about
    questions: int
    shares: dict[str, dict[str, Estimate]]  # layer -> outcome -> share
    differences: dict[str, Estimate]  # further layer -> right answers more than of the first layer's, paired
    failures: dict[str, int]  # "write: KIND" or "answer: KIND" -> images or questions
    requests: int
    cost_usd: float | None
    paths: list[str]


def judge_usefulness(
    bench: Bench, layers: Sequence[str], number: int, *, images: int | None = None
) -> UsefulReport:
    """Ask up to `number` questions an image of every layer's captions, and write the answers.

    Raises what `Bench.ask` raises, and `UsageError` where the judge wrote some of the captions.
    """
    rows = drawn(bench.dataset, layers, images)
    bench.refuse_captioners({caption.captioner for _, captions in rows for caption in captions})
    failures: Counter[str] = Counter()
    questions = _questions(bench, rows, number, failures)
    found = {}
    for place, layer in enumerate(layers):
        texts = {image.id: captions[place].text for image, captions in rows}
        found[layer] = _answers(bench, layer, texts, questions, failures)
    if failures and not any(found.values()):
        what = f"not one question was answered ({', '.join(f'{n:,} {kind}' for kind, n in failures.items())})"
        raise SharecapError(what, where=bench.name, todo="run the same command with --retry-failed")
    return UsefulReport(
        judge=bench.name,
        images=len(rows),
        asked=len(questions),
        questions=sum(map(len, questions.values())),
        shares={layer: _shares(outcomes) for layer, outcomes in found.items() if outcomes},
        differences=_differences(found, layers),
        failures=dict(sorted(failures.items())),
        requests=sum(report.requests for report in bench.reports),
        cost_usd=bench.spent_usd if bench.price else None,
        paths=[_written(bench.dataset, layer, outcomes) for layer, outcomes in found.items()],
    )


def _questions(
    bench: Bench, rows: Sequence[Row], number: int, failures: Counter[str]
) -> dict[str, list[Question]]:
    """Image id -> the questions that the judge wrote about it."""
    cases = [Case(write_prompt(number), image.id, image) for image, _ in rows]
    answers, found = bench.ask("questions", "write", cases, WRITE_TOKENS), {}
    for case in cases:
        questions, kind, _ = answers.read(case, lambda answer: read_questions(answer, number))
        if questions is None:
            failures[f"write: {kind}"] += 1
        else:
            found[case.image_id] = questions
    return found


def _answers(
    bench: Bench,
    layer: str,
    texts: Mapping[str, str],
    questions: Mapping[str, Sequence[Question]],
    failures: Counter[str],
) -> list[Outcome]:
    """What one layer's captions answer; `texts` are by image id."""
    asked = [
        (one, Case(answer_prompt(texts[image], one.text, one.options), image))
        for image, some in questions.items()
        for one in some
    ]
    answers = bench.ask(layer, "answer", [case for _, case in asked], ANSWER_TOKENS)
    said: dict[str, dict[int, str]] = {image: {} for image in questions}
    for one, case in asked:
        letter, kind, _ = answers.read(case, read_letter)
        if letter is None:
            failures[f"answer: {kind}"] += 1
        else:
            said[case.image_id][one.number] = letter
    return [
        Outcome(
            image=case.image_id,
            layer=layer,
            number=one.number,
            question=one.text,
            options=one.options,
            right=one.right,
            said=said[case.image_id][one.number],
            outcome=outcome,
            judge=bench.name,
            prompt=DIGEST,
        )
        for one, case in asked
        if (outcome := outcome_of(one, questions[case.image_id], said[case.image_id]))
    ]


def outcome_of(one: Question, questions: Sequence[Question], said: Mapping[int, str]) -> str:
    """One of `OUTCOMES`; "" where there is no answer to it, or to one that it depends on.

    `said` has the letters by the questions' numbers. Who doesn't know that there is a dog is not right about
    its colour, whatever letter was hit on.
    """
    if one.number not in said:
        return ""
    if one.depends_on is not None:
        parent = next(other for other in questions if other.number == one.depends_on)
        above = outcome_of(parent, questions, said)
        if above != "right":
            return above and "not told"
    letter = said[one.number]
    return "right" if letter == one.right else "not told" if letter == NOT_TOLD else "wrong"


def _shares(outcomes: Sequence[Outcome]) -> dict[str, Estimate]:
    return shares_of([one.image for one in outcomes], [one.outcome for one in outcomes], OUTCOMES)


def _differences(found: Mapping[str, Sequence[Outcome]], layers: Sequence[str]) -> dict[str, Estimate]:
    """Right answers of each further layer less those of the first, on questions that both have answers to."""
    first = {(one.image, one.number): one for one in found[layers[0]]}
    pairs = {}
    for layer in layers[1:]:
        both = [one for one in found[layer] if (one.image, one.number) in first]
        if both:
            images = tuple(one.image for one in both)
            theirs = tuple(float(one.outcome == "right") for one in both)
            ours = tuple(float(first[one.image, one.number].outcome == "right") for one in both)
            pairs[layer] = ((Mean(1.0, images, theirs),), (Mean(1.0, images, ours),))
    return {layer: one.difference for layer, one in compare(pairs).items()} if pairs else {}


def _written(dataset: Path, layer: str, outcomes: Sequence[Outcome]) -> str:
    path = dataset / SCORES / f"{layer}.answers.jsonl"
    with disk_errors(path):
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, "".join(json.dumps(asdict(one)) + "\n" for one in outcomes))
    return str(path)


def useful_lines(report: UsefulReport) -> list[str]:
    """For people."""
    lines = [
        f"answered from the captions alone, judged by {report.judge}: {report.questions:,} questions about "
        f"{report.asked:,} of {report.images:,} images"
    ]
    for layer, shares in report.shares.items():
        lines += [layer, *rows(shares)]
    first = next(iter(report.shares), "")
    lines += [
        f"right answers of {layer} less those of {first}: {points(difference)}"
        for layer, difference in report.differences.items()
    ]
    lines += [*lost(report.failures), took(report.requests, report.cost_usd)]
    return [*lines, *(f"answers in {path}" for path in report.paths)]
