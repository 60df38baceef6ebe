"""Q-Bench (LLVisionQA): multiple choice about how a picture looks (arXiv 2309.14181; paper, Table 3).

Its own scorer was never published; the score is accuracy, and an answer that names no option is wrong.
"""

from collections.abc import Sequence
from pathlib import Path

from sharecap.errors import SharecapError, UsageError
from sharecap.evals.choice import lettered, named, shown
from sharecap.evals.files import IDS, TEXTS, Row, id_of, need, only, read_rows, text_of, within
from sharecap.evals.pictures import Find, below, nowhere
from sharecap.evals.task import Measures, Record, Sample, Task, by_label, check_unique, item_mean

CHOOSE = "Choose between one of the options as follows:"
LABELLED = ("img_path", "candidates", "correct_ans")
TYPES = {"0": "yes/no", "1": "what", "2": "how"}
CONCERNS = {"0": "distortion", "1": "other", "2": "in-context distortion", "3": "in-context other"}


def task(samples: Sequence[Sample]) -> Task:
    """Q-Bench over these samples."""
    return Task("qbench", samples, prompt, 128, parse, score, measure)


def read_tasks(directory: Path) -> list[Task]:
    """The official list of the split with answers, with images/."""
    path, find = only(directory, "*.json"), below(directory, ("images", "."))
    return [task(read_samples(path, find, ("question", *LABELLED)))]


def read_samples(path: Path, find: Find = nowhere, needed: Sequence[str] = LABELLED) -> list[Sample]:
    """The official list: `question, img_path, candidates, correct_ans, type, concern`."""
    rows = read_rows(path)
    need(rows, needed, path)
    check_unique((row["img_path"] for row in rows), path)
    return [_sample(row, path, find) for row in rows]


def _sample(row: Row, where: Path, find: Find) -> Sample:
    options = lettered(row["candidates"])
    right = [letter for letter, text in options.items() if text == row["correct_ans"]]
    if len(right) != 1:
        what = f"{row['img_path']}: the answer {row['correct_ans']!r} is not one of the candidates"
        raise SharecapError(what, where=where)
    kind, concern = str(row.get("type", "")), str(row.get("concern", ""))
    return Sample(
        id=row["img_path"],
        images=find(row["img_path"]),
        image_name=row["img_path"],
        question=shown(f"{row.get('question', '')}\n{CHOOSE}", options),
        reference={"answer": right[0], "options": options},
        kind=TYPES.get(kind, kind),
        group=row["img_path"],
        labels={name: value for name, value in (("type", kind), ("concern", concern)) if value},
    )


def read_predictions(path: Path, labels: Path | None) -> tuple[Task, dict[str, str]]:
    """Lines by `img_path` (the official upload: question and `response`), or by the question's number.

    The upload repeats the questions, with the right answer where that is known.
    """
    rows = read_rows(path)
    if labels is None and not any("correct_ans" in row for row in rows):
        todo = "add --labels with the benchmark's own files"
        raise UsageError("qbench predictions hold no labels", where=path, todo=todo)
    samples = read_samples(within(labels, "*.json") if labels else path)
    need(rows, ["|".join(("img_path", *IDS)), "|".join(TEXTS)], path)
    by_number = {str(number): s.id for number, s in enumerate(samples)}
    names = [
        str(row["img_path"]) if "img_path" in row else by_number.get(id_of(row), id_of(row)) for row in rows
    ]
    check_unique(names, path)
    texts = [text_of(row[next(name for name in TEXTS if name in row)]) for row in rows]
    return task(samples), dict(zip(names, texts, strict=True))


def prompt(sample: Sample) -> str:
    """The question with its options (ShareGPT4V's words)."""
    return sample.question


def parse(sample: Sample, raw: str) -> str | None:
    """The option that the text names."""
    return named(sample.reference["options"], raw)


def score(sample: Sample, parsed: str | None) -> float:
    """1 for the right option."""
    return float(parsed == sample.reference["answer"])


def measure(records: Sequence[Record]) -> Measures:
    """Accuracy, over all and per type and concern."""
    scores = {"accuracy": item_mean(records)}
    for label, titles in (("type", TYPES), ("concern", CONCERNS)):
        for name, some in by_label(records, label).items():
            scores[f"{label} {name}: {titles.get(name, name)}"] = item_mean(some)
    return Measures("accuracy", 100.0, scores)
