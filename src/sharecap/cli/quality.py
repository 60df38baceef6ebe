"""Commands that measure captions, and keep or drop them by what was measured."""

from pathlib import Path
from typing import Annotated

import typer

from sharecap.cli.output import AsJson, show


def quality(
    dataset: Annotated[Path, typer.Argument(help="A dataset with captions.")],
    layers: Annotated[
        list[str], typer.Argument(help="One or more layers; the others are compared with the first.")
    ],
    *,
    tagger: Annotated[
        str | None,
        typer.Option(help="textblob, or a spaCy model (default: an installed English one, else textblob)."),
    ] = None,
    chair: Annotated[
        Path | None, typer.Option(help="Directory with synonyms.txt and the images' objects: adds CHAIR.")
    ] = None,
    ocr: Annotated[
        bool, typer.Option("--ocr", help="Add which words read in the images the captions give.")
    ] = False,
    by_source: Annotated[
        bool, typer.Option("--by-source", help="Measure also each source apart (the 20 largest).")
    ] = False,
    score: Annotated[
        str | None,
        typer.Option(
            help="Measure that becomes each caption's score (default: chair_i, ocr_recall or distinct_2)."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure layers side by side: parts of speech, length, variety, openings; on request objects, words."""
    from sharecap.artifact import plain
    from sharecap.images.catalog import Catalog
    from sharecap.images.progress import Progress
    from sharecap.images.words import Words, read_words, reading_lines
    from sharecap.quality.chair import Chair
    from sharecap.quality.measure import measure
    from sharecap.quality.table import quality_lines
    from sharecap.quality.tagging import open_tagger

    by, objects = open_tagger(tagger), Chair.read(chair) if chair else None
    read = read_words(dataset, progress=Progress("read")) if ocr else None
    words = Words.open(Catalog.open(dataset)) if read else None
    found = measure(
        dataset,
        layers,
        by,
        chair=objects,
        words=words,
        score=score,
        by_source=by_source,
        progress=Progress("measured"),
    )
    first = reading_lines(read) if read else []
    show(plain(found) | ({"words": plain(read)} if read else {}), as_json, [*first, *quality_lines(found)])


def curate(
    dataset: Annotated[Path, typer.Argument(help="A dataset with captions.")],
    layer: Annotated[str, typer.Argument(help="The layer that is curated; it stays as it is.")],
    *,
    to: Annotated[str, typer.Option(help="Name of the layer that is made.")],
    by: Annotated[
        str | None, typer.Option(help="A measure of `sharecap quality` (default: each caption's score).")
    ] = None,
    at_least: Annotated[float | None, typer.Option(help="Keep captions with this score or more.")] = None,
    at_most: Annotated[float | None, typer.Option(help="Keep captions with this score or less.")] = None,
    worst: Annotated[
        float | None, typer.Option(help="Drop this share of the captions, 0.1 for a tenth.")
    ] = None,
    sentences: Annotated[
        list[str] | None,
        typer.Option(help="Drop sentences judged contradicted, unverifiable or wrong (may be repeated)."),
    ] = None,
    control: Annotated[
        str | None, typer.Option(help="Also make this layer, with as much dropped at random.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Draws what the control drops.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Keep or drop captions by a score, or drop single sentences by verdicts, in a new layer."""
    from sharecap.artifact import plain
    from sharecap.errors import UsageError
    from sharecap.images.dataset import layer_path
    from sharecap.quality.curate import Rule, curated_lines, thin, trim
    from sharecap.quality.curate import curate as keep

    if sentences and (by, at_least, at_most, worst) != (None, None, None, None):
        raise UsageError(
            "give either --sentences or a rule for whole captions", todo="curate the new layer again"
        )
    if control is not None:
        if control in (layer, to):
            raise UsageError(
                "the control needs a name of its own", where=control, todo="choose another --control"
            )
        layer_path(dataset, control)  # a name that can't be one is told before anything is made
    made = (
        trim(dataset, layer, to, sentences)
        if sentences
        else keep(dataset, layer, to, Rule(by, at_least, at_most, worst))
    )
    layers = [made, *([thin(dataset, to, control, seed)] if control else [])]
    show(plain(layers), as_json, [line for one in layers for line in curated_lines(one)])
