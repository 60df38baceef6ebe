"""COCO captions: BLEU, METEOR, ROUGE-L and CIDEr against people's captions (arXiv 1504.00325).

The figures are those of pycocoevalcap, which needs Java; both are optional. CIDEr and ROUGE-L are means over
images and have intervals; BLEU and METEOR are figures of the whole set and have none here.
"""

import contextlib
import io
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sharecap.errors import SharecapError
from sharecap.evals.files import Row, id_of, need, read_json, read_whole, text_of, within
from sharecap.evals.task import Measures, Record, Sample, Task, check_unique, mean_of

FULL_MARKS = 10.0
"""CIDEr's; people reach about 1 against each other."""


def task(samples: Sequence[Sample]) -> Task:
    """COCO captions over these samples."""
    return Task("coco-caption", samples, prompt, 128, parse, score, measure)


def read_predictions(path: Path, labels: Path | None) -> tuple[Task, dict[str, str]]:
    """The official list of `image_id`, `caption`, and the annotation file; or both in one: `res`, `gts`."""
    content = read_whole(path)
    people = read_people(within(labels, "*.json") if labels else path)
    rows = _flat(content["res"]) if isinstance(content, dict) and "res" in content else content
    if not isinstance(rows, list):
        raise SharecapError("expected a list of image_id, caption", where=path)
    answers = captions_of(rows, path)
    samples = [
        Sample(id=image, images=(), image_name=image, question="", reference=told, kind="", group=image)
        for image, told in people.items()
        if image in answers
    ]
    if not samples:
        raise SharecapError("no image of these captions is among the labels", where=path)
    return replace(task(samples), notes=part_of(len(samples), len(people))), answers


def captions_of(rows: Sequence[Row], where: Path) -> dict[str, str]:
    """Image id -> its caption. lmms-eval's log drops `image_id`; its question ids are COCO's file names."""
    need(rows, ["image_id|question_id", "caption|text"], where)
    found = []
    for row in rows:
        caption = row["caption"] if "caption" in row else row["text"]
        found.append((image_number(id_of(row, ("image_id", "question_id"))), text_of(caption)))
    check_unique((name for name, _ in found), where)
    return dict(found)


def image_number(name: str) -> str:
    """The number in the name of COCO's file, in all its forms; another name as it is."""
    number = re.fullmatch(r"(?:COCO_\w+_)?(\d+)(?:\.(?:jpe?g|png))?", name)
    return str(int(number[1])) if number else name


def part_of(scored: int, labelled: int) -> tuple[str, ...]:
    """A note where a file has captions of some of the labelled images, as is the custom for COCO."""
    return (
        (f"{scored:,} of the {labelled:,} labelled images have a caption here",) if scored < labelled else ()
    )


def read_people(path: Path) -> dict[str, list[str]]:
    """Image id -> people's captions, of an annotation file or of `gts`."""
    content = read_json(path)
    if not isinstance(content, dict) or not content.keys() & {"annotations", "gts"}:
        todo = "expected COCO's annotations, or captions by image under gts"
        raise SharecapError("not people's captions", where=path, todo=todo)
    rows = content["annotations"] if "annotations" in content else _flat(content["gts"])
    need(rows, ["image_id", "caption"], path)
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(image_number(id_of(row, ("image_id",))), []).append(str(row["caption"]))
    return found


def _flat(by_image: Mapping[str, Sequence[Any]]) -> list[Row]:
    return [{"image_id": image, **caption} for image, told in by_image.items() for caption in told]


def prompt(_: Sample) -> str:
    """LLaVA's words for a short caption."""
    return "Provide a one-sentence caption for the provided image."


def parse(_: Sample, raw: str) -> str | None:
    """The caption in one line."""
    return " ".join(raw.split()) or None


def score(_: Sample, parsed: str | None) -> float:
    """Captions are scored together, by `measure`; alone, one is there or not."""
    return float(parsed is not None)


def measure(records: Sequence[Record]) -> Measures:
    """CIDEr, and beside it ROUGE-L, METEOR and BLEU."""
    empty = sum(record.parsed is None for record in records)
    if empty:
        why = f"{empty:,} of {len(records):,} images have no caption"
        return Measures("CIDEr", FULL_MARKS, {}, withheld=why, unparsed="leave no score")
    whole, each = _pycocoevalcap(records)
    clusters = [record.cluster for record in records]
    scores = {name: mean_of(1.0, list(zip(clusters, values, strict=True))) for name, values in each.items()}
    return Measures("CIDEr", FULL_MARKS, scores, printed=whole, unparsed="leave no score")


def _pycocoevalcap(records: Sequence[Record]) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Figures of the whole set, and for each image those that are a mean over images."""
    try:
        from pycocoevalcap.bleu.bleu import Bleu  # type: ignore[import-not-found]
        from pycocoevalcap.cider.cider import Cider  # type: ignore[import-not-found]
        from pycocoevalcap.meteor.meteor import Meteor  # type: ignore[import-not-found]
        from pycocoevalcap.rouge.rouge import Rouge  # type: ignore[import-not-found]
        from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer  # type: ignore[import-not-found]
    except ImportError:
        raise SharecapError("COCO captions need pycocoevalcap", todo="pip install 'sharecap[coco]'") from None
    if shutil.which("java") is None:
        raise SharecapError(
            "COCO captions need Java", todo="install a Java runtime, e.g. default-jre-headless"
        )
    people = {r.id: [{"caption": " ".join(told.split())} for told in r.reference] for r in records}
    said = {r.id: [{"caption": r.parsed}] for r in records}
    with contextlib.redirect_stdout(io.StringIO()):  # it reports its progress there
        people, said = PTBTokenizer().tokenize(people), PTBTokenizer().tokenize(said)
        if list(said) != [r.id for r in records]:
            raise SharecapError("pycocoevalcap's tokeniser lost captions", todo=json.dumps(list(said)[:3]))
        bleu, _ = Bleu(4).compute_score(people, said)
        cider, ciders = Cider().compute_score(people, said)
        rouge, rouges = Rouge().compute_score(people, said)
        meteor, _ = Meteor().compute_score(people, said)
    whole = {"CIDEr": float(cider), "ROUGE_L": float(rouge), "METEOR": float(meteor)}
    whole |= {f"Bleu_{n}": float(figure) for n, figure in enumerate(bleu, 1)}
    return whole, {"CIDEr": [float(x) for x in ciders], "ROUGE_L": [float(x) for x in rouges]}
