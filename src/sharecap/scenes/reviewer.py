"""A judge that knows the truth: reads the review forms of LLaVA-Bench and MM-Vet and grades by what is so.

The forms hold the truth as words about scenes (`whole_exam.py` writes it so). Pure; a prompt that is no
review form gets no grade. A real judge errs and drifts, so this one can, at a rate that is known.
"""

import random
import re

from sharecap.evals.benchmarks.mm_vet import HEADER
from sharecap.evals.soft_accuracy import normalised
from sharecap.scenes.facts import stated

_PAIR = re.compile(
    r"\[Context\]\n.*?\n\n\[Question\]\n.*?\n\n\[Assistant 1\]\n(?P<truth>.*?)\n\n\[End of Assistant 1\]\n\n"
    r"\[Assistant 2\]\n(?P<answer>.*?)\n\n\[End of Assistant 2\]\n\n\[System\]\n",
    re.DOTALL,
)
_ROW = re.compile(r"(?P<question>.*?) \| (?P<truth>.*?) \| (?P<answer>.*) \|\s*")
FEWEST_FACTS = 3
"""A truth that states so many facts is a description: then what the answer states is held against them."""


def review(prompt: str, rng: random.Random, mistakes: float = 0.0) -> str | None:
    """The judge's words on the answer in the form; None if the prompt is no review form.

    `mistakes` is the chance that the answer gets some other grade than it deserves.
    """
    if pair := _PAIR.search(prompt):
        grade = _graded(pair["answer"], pair["truth"], range(1, 11), rng, mistakes)
        best = 10
        return (
            f"{best} {grade}\nAssistant 1 tells the truth; what Assistant 2 says agrees with it at {grade}."
        )
    rows = prompt.rsplit("\n", 1)
    if HEADER in rows[0] and (row := _ROW.fullmatch(rows[-1])):
        tenths = _graded(row["answer"], row["truth"], range(11), rng, mistakes)
        return f"{tenths / 10:.1f}"
    return None


def _graded(answer: str, truth: str, grades: range, rng: random.Random, mistakes: float) -> int:
    deserved = grades[round(share(answer, truth) * (len(grades) - 1))]
    if rng.random() < mistakes:
        return rng.choice([grade for grade in grades if grade != deserved])
    return deserved


def share(answer: str, truth: str) -> float:
    """How much of the truth the answer tells, 0..1; of several truths (<OR>) the one that it tells best."""
    facts = {one.fact for one in stated(truth)}
    if len(facts) >= FEWEST_FACTS:
        told = {one.fact for one in stated(answer)}
        return 2 * len(told & facts) / (len(told) + len(facts))
    return max(_parts_told(answer, one) for one in truth.split("<OR>"))


def _parts_told(answer: str, truth: str) -> float:
    parts = [f" {normalised(part)} " for part in truth.split("<AND>")]
    said = f" {normalised(answer)} "
    return sum(part in said for part in parts) / len(parts)
