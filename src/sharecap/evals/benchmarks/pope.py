"""POPE: is this object in the image? Yes or no, in three splits (arXiv 2305.10355).

The rule is LLaVA's: a first sentence without no/No/not is a yes, whatever it says; such answers are counted
and shown. Answers meet labels by position and must ask the same question there. All figures are fractions, as
the official scorer prints them; the yes-ratio is that of the answers, not of the labels.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from sharecap.errors import SharecapError
from sharecap.evals.files import TEXTS, Row, need, read_rows, text_of
from sharecap.evals.pictures import Find, below, nowhere
from sharecap.evals.task import SHORT_ANSWER, Measures, Record, Sample, Task, by_label, mean_of, ratio_of
from sharecap.statistics import Score, scaled

SPLITS = ("adversarial", "random", "popular")
ANSWERS = (*TEXTS, "answer")
BESIDE = tuple(name for name in ANSWERS if name != "text")


def task(samples: Sequence[Sample]) -> Task:
    """POPE over these samples."""
    return Task("pope", samples, prompt, 128, parse, score, measure)


def read_tasks(directory: Path) -> list[Task]:
    """The label files, here or in coco/, with COCO's val2014/."""
    place = directory / "coco" if (directory / "coco").is_dir() else directory
    return [task(read_samples(place, below(directory, ("val2014", "images", "."))))]


def read_labels(place: Path) -> dict[str, list[Row]]:
    """Split -> its rows `image, text, label`, from `*_pope_<split>.json` files or one of them."""
    files = _label_files(place) if place.is_dir() else [place]
    found: dict[str, list[Row]] = {}
    for file in files:
        rows = read_rows(file)
        need(rows, ["image", "text", "label"], file)
        rows = [{**row, "label": str(row["label"]).strip().lower()} for row in rows]
        wrong = [row["label"] for row in rows if row["label"] not in ("yes", "no")]
        if wrong:
            raise SharecapError(f"a label must be yes or no, not {wrong[0]!r}", where=file)
        split = file.stem.rpartition("_")[2]
        if split in found:
            raise SharecapError(f"two label files of the split {split}", where=file, todo="keep one of them")
        found[split] = rows
    if not found:
        raise SharecapError("no label files", where=place, todo="expected coco_pope_random.json and others")
    return found


def _label_files(place: Path) -> list[Path]:
    """In the directory, or in its coco/, where LLaVA's layout has them."""
    for folder in (place, place / "coco"):
        lines = [p for split in SPLITS for p in folder.glob(f"*pope_{split}.jsonl")]
        if found := sorted(folder.glob("*pope_*.json")) or sorted(lines):
            return found
    return []


def read_samples(place: Path, find: Find = nowhere) -> list[Sample]:
    """The questions of the label files."""
    return [
        Sample(
            id=f"{split}/{number}",
            images=find(row["image"]),
            image_name=row["image"],
            question=row["text"],
            reference=row["label"],
            kind=split,
            group=f"{split}/{number}",
            labels={"split": split},
        )
        for split, rows in read_labels(place).items()
        for number, row in enumerate(rows, 1)
    ]


def read_predictions(path: Path, labels: Path) -> tuple[Task, dict[str, str]]:
    """One file with the answers to all splits (LLaVA's), or a directory with one file a split (official)."""
    samples = read_samples(labels)
    splits: dict[str, list[Sample]] = {}
    for sample in samples:
        splits.setdefault(sample.kind, []).append(sample)
    if path.is_dir():
        answered = {split: _of_split(path, split) for split in splits}
    else:
        answered = _told_apart(read_rows(path), splits, labels, path)
    answers: dict[str, str] = {}
    for split, rows in answered.items():
        _check(rows, splits[split], split, path)
        answers |= {s.id: _answer(row) for s, row in zip(splits[split], rows, strict=True)}
    return task(samples), answers


def _of_split(directory: Path, split: str) -> list[Row]:
    files = [p for p in sorted(directory.iterdir()) if split in p.name]
    if len(files) != 1:
        raise SharecapError(f"{len(files)} answer files with {split!r} in their name", where=directory)
    rows = read_rows(files[0])
    need(rows, ["|".join(ANSWERS)], files[0])
    return rows


def _told_apart(
    rows: list[Row], splits: Mapping[str, list[Sample]], labels: Path, path: Path
) -> dict[str, list[Row]]:
    """The answers of each split: by LLaVA's question file beside the labels, else by what was asked."""
    need(rows, ["|".join(ANSWERS)], path)
    total = sum(map(len, splits.values()))
    if len(splits) == 1 and len(rows) == total:
        return {next(iter(splits)): rows}
    files = _question_files(labels if labels.is_dir() else labels.parent)
    known = {str(q["question_id"]): q["category"] for f in files for q in read_rows(f) if "category" in q}
    if known:
        found: dict[str, list[Row]] = {split: [] for split in splits}
        for row in rows:
            split = known.get(str(row.get("question_id")))
            if split is None:
                what = f"no question {row.get('question_id')} in the question file"
                raise SharecapError(what, where=path, todo=f"is it the one in {files[0]}?")
            if split in found:
                found[split].append(row)
        return found
    if len(rows) == total:
        for order in itertools.permutations(splits):
            asked = [s.question for split in order for s in splits[split]]
            if all(_asked(row) == question for row, question in zip(rows, asked, strict=True)):
                ahead = iter(rows)
                return {split: list(itertools.islice(ahead, len(splits[split]))) for split in order}
    what = f"{len(rows):,} answers for {total:,} labels of {', '.join(splits)} can't be matched"
    raise SharecapError(what, where=path, todo=f"put LLaVA's question file beside the labels. {_VERSIONS}")


def _question_files(place: Path) -> list[Path]:
    """LLaVA's questions, beside the label files or one folder up, as it lays them out."""
    beside = set(place.glob("*pope*.jsonl")) - set(_label_files(place))
    above = place.resolve().parent / "llava_pope_test.jsonl"
    return sorted(beside) or ([above] if above.is_file() else [])


_VERSIONS = "POPE's random split has 2,910 questions in the old release and 3,000 in the new one"


def _asked(row: Row) -> str:
    question = row.get("prompt", row.get("question", row["text"] if _is_asked(row) else ""))
    return str(question).split("\n")[0]


def _answer(row: Row) -> str:
    return text_of(row[next(name for name in (BESIDE if _is_asked(row) else ANSWERS) if name in row)])


def _is_asked(row: Row) -> bool:
    """Whether `text` is the question, as in POPE's label files, and the answer stands beside it."""
    asked = str(row.get("prompt", row.get("question", row.get("text")))).split("\n")[0]
    return row.get("text") == asked and any(name in row for name in BESIDE)


def _check(rows: Sequence[Row], samples: Sequence[Sample], split: str, where: Path) -> None:
    if len(rows) != len(samples):
        what = f"{len(rows):,} answers for {len(samples):,} labels of the split {split}"
        raise SharecapError(what, where=where, todo=_VERSIONS)
    for number, (row, sample) in enumerate(zip(rows, samples, strict=True), 1):
        if _asked(row) not in ("", sample.question):
            what = f"answer {number} of {split} is to {_asked(row)!r}, the label to {sample.question!r}"
            raise SharecapError(what, where=where, todo="answers and labels must be in one order")
        if _answer(row) == sample.question:  # a label file, say: by the rule, all of it would be a yes
            what = f"row {number} of {split} holds its question where an answer should be"
            raise SharecapError(what, where=where, todo="put answers into response")


def prompt(sample: Sample) -> str:
    """The question with the short-answer suffix."""
    return f"{sample.question}\n{SHORT_ANSWER}"


def parse(_: Sample, raw: str) -> str | None:
    """ "no" if the first sentence has the word, "yes" if the text says so, None if it says neither."""
    words = raw.partition(".")[0].replace(",", "").split(" ")
    if not {"No", "not", "no"}.isdisjoint(words):
        return "no"
    return "yes" if re.search(r"\byes\b", raw, re.IGNORECASE) else None


def score(sample: Sample, parsed: str | None) -> float:
    """1 if right; what is not a no is a yes."""
    return float((parsed or "yes") == sample.reference)


def measure(records: Sequence[Record]) -> Measures:
    """F1 (mean of the splits), and what F1 is made of, per split."""
    splits = by_label(records, "split")
    f1: dict[str, Score] = {}
    others: dict[str, Score] = {}
    notes = []
    for split, some in splits.items():
        said = [(r.cluster, r.parsed != "no", r.reference == "yes") for r in some]
        true = [(c, float(yes and truth)) for c, yes, truth in said]
        counts = {
            "TP": sum(yes and truth for _, yes, truth in said),
            "FP": sum(yes and not truth for _, yes, truth in said),
            "TN": sum(not yes and not truth for _, yes, truth in said),
            "FN": sum(not yes and truth for _, yes, truth in said),
        }
        notes.append(f"{split}: {', '.join(f'{name} {n:,}' for name, n in counts.items())}")
        both = [float(yes) + float(truth) for _, yes, truth in said]
        if not any(both):
            return Measures("f1", 1.0, {}, withheld=f"{split}: no yes among labels and answers, so no F1")
        f1[split] = ratio_of(2.0, [(c, tp, n) for (c, tp), n in zip(true, both, strict=True)])
        others[f"{split}: acc"] = mean_of(1.0, [(r.cluster, r.score) for r in some])
        if counts["TP"] + counts["FP"]:
            others[f"{split}: precision"] = ratio_of(
                1.0, [(c, tp, float(yes)) for (c, tp), (_, yes, _) in zip(true, said, strict=True)]
            )
        if counts["TP"] + counts["FN"]:
            others[f"{split}: recall"] = ratio_of(
                1.0, [(c, tp, float(truth)) for (c, tp), (_, _, truth) in zip(true, said, strict=True)]
            )
        others[f"{split}: yes_ratio"] = mean_of(1.0, [(c, float(yes)) for c, yes, _ in said])
    missing = [split for split in SPLITS if split not in splits]
    if missing:
        notes.append(f"splits that are not there: {', '.join(missing)}")
    mean = tuple(part for score in f1.values() for part in scaled(score, 1 / len(f1)))
    scores = {"f1": mean} | {f"{split}: f1": score for split, score in f1.items()} | others
    return Measures("f1", 1.0, scores, tuple(notes), unparsed="say neither yes nor no and count as yes")
