"""CPU seconds to score as many predictions as VQAv2's test-dev has, beside the official way, and a bootstrap.

Synthetic: 107,394 questions about 36,807 images, ten people's answers each, drawn from 20,000 answers, few of
them common. The official way is its rules stated again here, one item at a time: normalise all ten answers
and the prediction where people disagree, leave one person out by comparing entries. Both must find the same
score. lmms-eval's own function is run where it is: `pip install --no-deps --target DIR lmms_eval loguru`.
`python benchmarks/score.py --help`
"""

import argparse
import importlib
import importlib.metadata
import json
import platform
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from sharecap.evals.benchmarks.vqav2 import read_predictions
from sharecap.evals.soft_accuracy import _CONTRACTIONS as CONTRACTIONS
from sharecap.evals.soft_accuracy import _NUMBERS as NUMBERS
from sharecap.evals.soft_accuracy import _PUNCTUATION as PUNCTUATION
from sharecap.evals.soft_accuracy import normalised
from sharecap.evals.task import grade
from sharecap.statistics import intervals, value

QUESTIONS, IMAGES, ANSWERS = 107_394, 36_807, 20_000
T = TypeVar("T")


def make(root: Path, questions: int) -> None:
    """Question, annotation and prediction file."""
    rng = random.Random(0)
    words = ["red", "Two", "a man", "on the table", "don't know", "yes", "no", "tv/radio", "3,000", "it's."]
    known = [f"{words[n % 10]} {n}" if n >= 10 else words[n] for n in range(ANSWERS)]
    drawn = rng.choices(known, [1 / (n + 1) for n in range(ANSWERS)], k=questions * 12)
    asked, annotated, predicted = [], [], []
    for n in range(questions):
        most, guess, *others = drawn[12 * n : 12 * n + 12]
        people = [most if rng.random() < 0.7 else other for other in others]
        ids = {"question_id": n, "image_id": rng.randrange(IMAGES)}
        asked.append({**ids, "question": "What is it?"})
        answers = [{"answer": a, "answer_confidence": "yes", "answer_id": i} for i, a in enumerate(people, 1)]
        annotated.append(
            {**ids, "answer_type": rng.choice(("yes/no", "number", "other")), "answers": answers}
        )
        predicted.append({"question_id": n, "answer": (most if rng.random() < 0.7 else guess).capitalize()})
    files: dict[str, Any] = {"questions": {"questions": asked}, "annotations": {"annotations": annotated}}
    for name, content in files.items():
        (root / f"{name}.json").write_text(json.dumps(content))
    (root / "upload").mkdir()
    (root / "upload" / "predictions.json").write_text(json.dumps(predicted))


def official(root: Path) -> float:
    """Accuracy in per cent as the VQA server computes it, with predictions normalised before the upload."""
    annotations = json.loads((root / "annotations.json").read_text())["annotations"]
    predictions = json.loads((root / "upload" / "predictions.json").read_text())
    answer_to = {row["question_id"]: normalised(row["answer"]) for row in predictions}
    total = 0.0
    for annotation in annotations:
        answer = one_line(answer_to[annotation["question_id"]])
        people = [{**person, "answer": one_line(person["answer"])} for person in annotation["answers"]]
        if len({person["answer"] for person in people}) > 1:
            people = [{**person, "answer": plain(person["answer"])} for person in people]
            answer = plain(answer)
        left_out = []
        for person in people:
            others = [other for other in people if other != person]
            left_out.append(min(1.0, len([o for o in others if o["answer"] == answer]) / 3))
        total += sum(left_out) / len(left_out)
    return 100 * total / len(annotations)


def one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def plain(text: str) -> str:
    """Punctuation, number words, articles and contractions, by the rules."""
    kept = text
    for mark in PUNCTUATION:
        together = mark + " " in text or " " + mark in text or re.search(r"(\d)(,)(\d)", text) is not None
        kept = kept.replace(mark, "" if together else " ")
    kept = re.sub(r"(?!<=\d)(\.)(?!\d)", "", kept)
    words = [NUMBERS.get(word, word) for word in kept.lower().split()]
    words = [word for word in words if word not in ("a", "an", "the")]
    return " ".join(CONTRACTIONS.get(word, word) for word in words)


def load_lmms_eval(place: Path) -> ModuleType:
    """Its VQAv2 task. Its packages' own `__init__` would import torch and all engines: they are passed by."""
    sys.path.append(str(place))
    for name in ("lmms_eval", "lmms_eval.tasks"):
        bare = ModuleType(name)
        bare.__path__ = [str(place.joinpath(*name.split(".")))]
        sys.modules[name] = bare
    return importlib.import_module("lmms_eval.tasks.vqav2.utils")


def by_lmms_eval(vqav2: ModuleType, root: Path) -> float:
    """Accuracy in per cent by `vqav2_process_results_val`, item by item as its harness calls it."""
    annotations = json.loads((root / "annotations.json").read_text())["annotations"]
    predictions = json.loads((root / "upload" / "predictions.json").read_text())
    answer_to = {row["question_id"]: row["answer"] for row in predictions}
    each = [
        vqav2.vqav2_process_results_val(annotation, [answer_to[annotation["question_id"]]])["exact_match"]
        for annotation in annotations
    ]
    return 100 * sum(each) / len(each)


def timed(work: Callable[[], T]) -> tuple[T, float]:
    clock = time.process_time()  # other jobs may share the cores
    found = work()
    return found, time.process_time() - clock


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--questions", type=int, default=QUESTIONS, help="how many (default: %(default)s)")
    parser.add_argument("--lmms-eval", type=Path, help="directory that has the packages lmms_eval and loguru")
    asked = parser.parse_args()
    questions = asked.questions
    print(f"{platform.machine()}, Python {platform.python_version()}, {questions:,} questions x 10 answers")
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        make(root, questions)
        path = root / "upload" / "predictions.json"
        records, ours = timed(lambda: grade(*read_predictions(path, root, "server"), path))
        theirs_score, theirs = timed(lambda: official(root))
        score = sum(100 * record.score for record in records) / len(records)
        assert abs(score - theirs_score) < 1e-9, (score, theirs_score)
        if asked.lmms_eval:
            (found_in,) = importlib.metadata.distributions(name="lmms_eval", path=[str(asked.lmms_eval)])
            vqav2 = load_lmms_eval(asked.lmms_eval)
            lmms_score, lmms = timed(lambda: by_lmms_eval(vqav2, root))
        task, _ = read_predictions(path, root, "server")
        scores = task.measure(records).scores
        found, draws = timed(lambda: intervals(scores, resamples=2_000))
        assert abs(value(scores["accuracy"]) - score) < 1e-9
    print(
        f"read and score: {ours:.1f} s; the official way: {theirs:.1f} s, {theirs / ours:.1f} times as long"
    )
    if asked.lmms_eval:
        name = f"lmms-eval {found_in.version}"
        print(f"{name}: {lmms:.1f} s, {lmms / ours:.1f} times as long; by its own rule {lmms_score:.3f}")
    else:
        print("lmms-eval: not run (--lmms-eval DIR)")
    low, high = found["accuracy"].low, found["accuracy"].high
    print(f"2,000 draws over {len(scores)} metrics: {draws:.1f} s; {score:.3f} in {low:.3f} .. {high:.3f}")


if __name__ == "__main__":
    main()
