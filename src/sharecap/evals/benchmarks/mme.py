"""MME: two yes/no questions an image; a subtask is 100 x acc + 100 x acc+ (arXiv 2306.13394; paper, Table 3).

Reads the official release (`<subtask>/` with one text of two lines an image) and the official result files
(`image, question, truth, response`). Never pairs lines by their order across images: pairs are made by image.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from sharecap.errors import SharecapError, UsageError
from sharecap.evals.files import Row, need, read_rows, read_text, text_of
from sharecap.evals.task import (
    SHORT_ANSWER,
    Measures,
    Record,
    Sample,
    Task,
    check_unique,
    group_mean,
    item_mean,
)
from sharecap.statistics import Score

PERCEPTION = (
    *("existence", "count", "position", "color", "posters"),
    *("celebrity", "scene", "landmark", "artwork", "OCR"),
)
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
SUBTASKS = {name.lower(): name for name in (*PERCEPTION, *COGNITION)}
YES_NO = "Please answer yes or no."
PICTURES = (".jpg", ".jpeg", ".png")
FULL_MARKS = 200.0
"""Of one subtask."""


def task(samples: Sequence[Sample]) -> Task:
    """MME over these samples."""
    return Task("mme", samples, prompt, 128, parse, score, measure)


def read_tasks(directory: Path) -> list[Task]:
    """The official release at `directory`, or at the only directory inside it."""
    return [task(_read_release(directory, with_images=True))]


def _read_release(directory: Path, *, with_images: bool) -> list[Sample]:
    roots = [directory, *sorted(p for p in directory.iterdir() if p.is_dir())] if directory.is_dir() else []
    for root in roots:
        found = [name for name in (*PERCEPTION, *COGNITION) if (root / name).is_dir()]
        if found:
            return [s for name in found for s in _read_subtask(root / name, with_images)]
    raise SharecapError("no MME subtask here", where=directory, todo="expected folders like existence/, OCR/")


def _read_subtask(folder: Path, with_images: bool) -> list[Sample]:
    # The release has two layouts: images/ with questions_answers_YN/, and images beside their texts.
    split = (folder / "questions_answers_YN").is_dir()
    texts = sorted((folder / "questions_answers_YN" if split else folder).glob("*.txt"))
    pictures = folder / "images" if split else folder
    if not texts:
        raise SharecapError("MME subtask without questions", where=folder, todo="expected a .txt per image")
    return [sample for text in texts for sample in _read_pair(folder.name, text, pictures, with_images)]


def _read_pair(subtask: str, text: Path, pictures: Path, with_images: bool) -> list[Sample]:
    image = next((p for s in PICTURES if (p := pictures / (text.stem + s)).is_file()), None)
    if image is None and with_images:
        raise SharecapError(
            "no image for these questions", where=text, todo=f"expected {pictures}/{text.stem}.jpg"
        )
    rows = [line.split("\t") for line in read_text(text).splitlines() if line.strip()]
    if len(rows) != 2 or any(len(row) != 2 for row in rows):
        raise SharecapError("expected two lines `question<TAB>Yes|No`", where=text)
    name = image.name if image else f"{text.stem}.jpg"
    return [
        sample((subtask, name, number), question, truth, (image,) if image and with_images else (), text)
        for number, (question, truth) in enumerate(rows, 1)
    ]


def sample(
    place: tuple[str, str, int], question: str, truth: str, images: tuple[Path, ...], where: Path
) -> Sample:
    """`place`: subtask, name of the image, and which of its two questions this is."""
    subtask, image, number = place
    if truth.strip().lower() not in ("yes", "no"):
        raise SharecapError(f"the answer must be Yes or No, not {truth!r}", where=where)
    group = f"{subtask}/{image}"
    return Sample(
        id=f"{group}#{number}",
        images=images,
        image_name=group,
        question=question,
        reference=truth.strip().capitalize(),
        kind=subtask,
        group=group,
        labels={"subtask": subtask},
    )


def read_predictions(path: Path, labels: Path | None) -> tuple[Task, dict[str, str]]:
    """Official result files (truth inside), or LLaVA's JSON lines with `labels` (release or such files)."""
    if path.is_dir() or path.suffix == ".txt":
        if labels is not None:
            raise UsageError("MME result files hold their labels", where=labels, todo="leave out --labels")
        rows = [row for file in _result_files(path) for row in _read_results(file)]
        return task([sample for sample, _ in rows]), {sample.id: response for sample, response in rows}
    if labels is None:
        todo = "add --labels with MME's folder, or with result files of any model"
        raise UsageError("JSON lines of MME hold no labels", where=path, todo=todo)
    samples = _read_labels(labels)
    return task(samples), _by_question(read_rows(path), samples, path)


def _result_files(path: Path) -> list[Path]:
    files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
    if not files:
        raise SharecapError("no MME result files", where=path, todo="expected <subtask>.txt files")
    # Others, such as a readme, are passed over; where there are only others, the first is named.
    return [file for file in files if file.stem.lower() in SUBTASKS] or files


def _read_results(file: Path) -> list[tuple[Sample, str]]:
    """Samples and responses of one subtask, from `image<TAB>question<TAB>truth<TAB>response` lines."""
    subtask = SUBTASKS.get(file.stem.lower())
    if subtask is None:
        raise SharecapError(f"{file.stem!r} is not a subtask of MME", where=file)
    found = []
    for number, line in enumerate(read_text(file).split("\n"), 1):
        if not line.strip():
            continue
        fields = line.split("\t")
        if len(fields) != 4:
            what = f"line {number} has {len(fields)} tab-separated fields, not 4"
            raise SharecapError(what, where=file, todo="expected image, question, truth, response")
        image, question, truth, response = fields
        found.append((sample((subtask, image, 0), question, truth, (), file), response))
    return paired(found, file)


def paired(rows: Sequence[tuple[Sample, str]], where: Path) -> list[tuple[Sample, str]]:
    """The same, numbered within their picture; `SharecapError` unless each picture has its two questions."""
    seen: dict[str, int] = {}
    found = []
    for one, response in rows:
        if one.kind not in PERCEPTION + COGNITION:
            raise SharecapError(f"{one.kind!r} is not a subtask of MME", where=where)
        seen[one.group] = seen.get(one.group, 0) + 1
        found.append((replace(one, id=f"{one.group}#{seen[one.group]}"), response))
    check_unique((f"{one.group}: {one.question}" for one, _ in found), where)
    odd = [group for group, times in seen.items() if times != 2]
    if odd:
        first = odd[0].partition("/")[2]
        what = f"{len(odd)} images do not have two answers each (first: {first}, {seen[odd[0]]})"
        raise SharecapError(what, where=where, todo="acc+ needs both questions of every image")
    return found


def _read_labels(labels: Path) -> list[Sample]:
    if labels.is_file() or any(file.stem.lower() in SUBTASKS for file in labels.glob("*.txt")):
        return [sample for file in _result_files(labels) for sample, _ in _read_results(file)]
    return list(_read_release(labels, with_images=False))


def _by_question(rows: Sequence[Row], samples: Sequence[Sample], where: Path) -> dict[str, str]:
    """LLaVA's answers by subtask, image and question, whatever its spaces and its suffix."""
    need(rows, ["question_id", "prompt", "text"], where)
    known = {(_place(s.group), _core(s.question)): s.id for s in samples}
    found: dict[str, str] = {}
    for row in rows:
        name = known.get((_place(str(row["question_id"])), _core(str(row["prompt"]))))
        if name is None:
            what = f"no question {str(row['prompt'])!r} about {row['question_id']} in the benchmark"
            raise SharecapError(what, where=where, todo="give the labels of what was asked")
        if name in found:
            raise SharecapError(f"item {name} appears twice", where=where, todo="keep one of the two")
        found[name] = text_of(row["text"])
    return found


def _place(name: str) -> tuple[str, str]:
    """Subtask and image, without what comes between and without its suffix."""
    subtask, _, image = name.partition("/")
    return subtask, PurePosixPath(image).stem


def _core(question: str) -> str:
    # The release has questions with two spaces before the suffix, which its converters must try.
    return " ".join(question.replace(SHORT_ANSWER, "").replace(YES_NO, "").split())


def prompt(sample: Sample) -> str:
    """The question with the short-answer suffix in place of MME's own."""
    return f"{sample.question.replace(YES_NO, '').strip()}\n{SHORT_ANSWER}"


def parse(_: Sample, raw: str) -> str | None:
    """ "yes" or "no" when it stands in the first four characters (the official rule), else None."""
    head = raw.lower()[:4]
    return "yes" if "yes" in head else "no" if "no" in head else None


def score(sample: Sample, parsed: str | None) -> float:
    """1 if the answer is right."""
    return float(parsed == str(sample.reference).lower())


def measure(records: Sequence[Record]) -> Measures:
    """Subtask scores and their sums (perception, cognition, total) over the subtasks that are present."""
    by_subtask: dict[str, list[Record]] = {}
    for record in records:
        by_subtask.setdefault(record.labels["subtask"], []).append(record)
    subtasks: dict[str, Score] = {}
    for name in (*PERCEPTION, *COGNITION):
        if name in by_subtask:
            subtasks[name] = item_mean(by_subtask[name]) + group_mean(by_subtask[name])
    sums = {"total": (*PERCEPTION, *COGNITION), "perception": PERCEPTION, "cognition": COGNITION}
    scores = {
        title: tuple(mean for name in names if name in subtasks for mean in subtasks[name])
        for title, names in sums.items()
    }
    present = {title: s for title, s in scores.items() if s}
    notes = []
    if missing := [name for name in (*PERCEPTION, *COGNITION) if name not in subtasks]:
        # A sum of fewer subtasks can't be held against a published one.
        halves = [(title, len(subtasks.keys() & sums[title])) for title in present if title != "total"]
        told = ", ".join(f"{title} is out of {FULL_MARKS * count:,.0f}" for title, count in halves)
        notes = [f"{len(missing)} of 14 subtasks are not there: {', '.join(missing)}; {told}"]
    return Measures("total", FULL_MARKS * len(subtasks), present | subtasks, tuple(notes))
