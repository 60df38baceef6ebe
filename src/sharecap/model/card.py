"""The model card, README.md of a saved model: how it was made, from what, and how well it does.

A pure function of the stages' manifests and the scores; it measures and reads nothing. Equal runs give
equal cards: it must never hold a time, or where on a disk something lay. Names come from outside: nothing of
them may become markup.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharecap.markdown import markdown, table, yaml_text

CARD = "README.md"
"""Its name in a model's folder."""

UNKNOWN = "unknown"
"""The Hub's word for a licence that nobody has stated."""

OUTCOME = (
    *("steps", "final_loss", "held_out_loss", "held_out_quality", "best_step", "tokens", "learned_tokens"),
    *("dropped_rows", "cut_rows", "parameters"),
)
"""What is told of a stage's metrics."""

USE = """```python
from transformers import pipeline

ask = pipeline("image-text-to-text", model="THIS DIRECTORY")
question = [{"type": "image", "url": "photo.jpg"}, {"type": "text", "text": "Describe the image."}]
print(ask(text=[{"role": "user", "content": question}], return_full_text=False)[0]["generated_text"])
```"""


@dataclass(frozen=True)
class Score:
    """A benchmark's result with its 95 % interval, in the metric's own unit."""

    benchmark: str
    metric: str
    value: float
    low: float | None  # None: too few items for an interval
    high: float | None
    items: int  # questions or pictures


def card(
    name: str, stages: Sequence[Mapping[str, Any]], scores: Sequence[Score] = (), licence: str = UNKNOWN
) -> str:
    """The whole file.

    `stages` are `config`, `inputs`, `metrics` and `code_version` of the stages' manifests, in the order of
    training.
    """
    parts = [
        "\n".join(
            (
                "---",
                "library_name: transformers",
                "pipeline_tag: image-text-to-text",
                f"license: {yaml_text(licence)}",
                "---",
            )
        ),
        f"# {markdown(name)}",
        "A LLaVA-class model, trained with sharecap. The folder is complete: vision tower, language model, "
        "projector, processor and chat template.",
        USE,
        "## Scores",
        score_table(scores) if scores else "Not measured.",
        "## Licence",
        "Not stated. It follows from the licences of the parts and of the data below."
        if licence == UNKNOWN
        else f"{markdown(licence)}.",
        "## How it was made",
        *(stage_text(number, manifest) for number, manifest in enumerate(stages, 1)),
    ]
    return "\n\n".join(parts) + "\n"


def score_table(scores: Sequence[Score]) -> str:
    rows = [
        (
            f"{markdown(x.benchmark)}, {markdown(x.metric)} ({x.items:,} items)",
            f"{x.value:,.4g}" if x.low is None else f"{x.value:,.4g} ({x.low:,.4g} to {x.high:,.4g})",
        )
        for x in scores
    ]
    return table(("benchmark", "score (95 % interval)"), rows)


def stage_text(number: int, manifest: Mapping[str, Any]) -> str:
    """One stage: its recipe, its inputs by digest, what came out."""
    recipe = [(f"{markdown(path)}", markdown(value)) for path, value in flat(manifest["config"])]
    inputs = [(markdown(str(k)), markdown(str(v))) for k, v in sorted(manifest["inputs"].items())]
    told = {key: manifest["metrics"][key] for key in OUTCOME if key in manifest["metrics"]}
    outcome = [(markdown(k), markdown(v)) for k, v in flat(told)]
    outcome.append(("made with sharecap", markdown(str(manifest["code_version"]))))
    parts = [
        f"### {number}. {markdown(str(manifest['config']['stage']))}",
        table(("", ""), recipe),
        "Made from, with the sha256 of each:",
        table(("", ""), inputs),
        "What came out:",
        table(("", ""), outcome),
    ]
    return "\n\n".join(parts)


def flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Nested data as pairs of a dotted path and its value, without None and without a file's folders."""
    if isinstance(value, Mapping):
        for key in value:
            yield from flat(value[key], f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple) and any(isinstance(x, Mapping | list | tuple) for x in value):
        for i, item in enumerate(value):
            yield from flat(item, f"{path}[{i}]")
    elif isinstance(value, list | tuple):
        yield path, ", ".join(str(x) for x in value)
    elif isinstance(value, float):
        yield path, f"{value:.6g}"
    elif value is not None:
        yield path, Path(value).name if str(value).startswith("/") else str(value)
