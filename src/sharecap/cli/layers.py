"""Commands over layers of captions: look at them, make others of them, hand them on."""

from pathlib import Path
from typing import Annotated

import typer

from sharecap.cli.output import AsJson, show


def stats(
    dataset: Annotated[Path, typer.Argument(help="A dataset with captions.")],
    *,
    layer: Annotated[str | None, typer.Option(help="Which captions (default: the only ones).")] = None,
    as_json: AsJson = False,
) -> None:
    """What the captions look like: counts, lengths, openings, failures, tokens, cost."""
    from sharecap.captions.layer import only_layer
    from sharecap.captions.stats import lines
    from sharecap.captions.stats import stats as count

    found = count(dataset, layer or only_layer(dataset))
    show(found.as_json(), as_json, lines(found))


def diff(
    dataset: Annotated[Path, typer.Argument(help="A dataset with captions.")],
    a: Annotated[str, typer.Argument(help="A layer.")],
    b: Annotated[str, typer.Argument(help="The layer to compare it with.")],
    *,
    examples: Annotated[int, typer.Option(min=0, help="Images that are shown word by word.")] = 3,
    as_json: AsJson = False,
) -> None:
    """Compare two layers: how many captions differ, lengths, and examples word by word."""
    from sharecap.captions.diff import diff as compare_layers
    from sharecap.captions.diff import diff_lines

    found = compare_layers(dataset, a, b, examples=examples)
    show(found.as_json(), as_json, diff_lines(found))


def merge(
    dataset: Annotated[Path, typer.Argument(help="A dataset with captions.")],
    layers: Annotated[list[str], typer.Argument(help="Two or more layers; among equals, the first wins.")],
    *,
    to: Annotated[str, typer.Option(help="Name of the layer that is made.")],
    rule: Annotated[str, typer.Option(help="first, unflagged, longest or shortest.")] = "first",
    by_source: Annotated[
        list[str] | None, typer.Option(help="SOURCE=LAYER goes before the rule (may be repeated).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make one layer out of several, by a rule. Every caption keeps the name of the layer it came from."""
    from sharecap.artifact import plain
    from sharecap.captions.merge import merge as merge_layers
    from sharecap.captions.merge import merged_lines, parse_by_source

    made = merge_layers(dataset, layers, to, rule, parse_by_source(by_source or []))
    show(plain(made), as_json, merged_lines(made))


def edit(
    dataset: Annotated[Path, typer.Argument(help="A dataset with captions.")],
    *,
    to: Annotated[str, typer.Option(help="Name of the layer that is made.")],
    edits: Annotated[
        Path | None, typer.Option(help='JSON lines {"image_id", "sentence", "was", "text"}.')
    ] = None,
    first_sentence: Annotated[
        bool, typer.Option("--first-sentence", help="Short captions: keep the first sentence only.")
    ] = False,
    layer: Annotated[str | None, typer.Option(help="Which captions (default: the only ones).")] = None,
    as_json: AsJson = False,
) -> None:
    """Drop or replace single sentences, in a new layer beside the original."""
    from sharecap.artifact import plain
    from sharecap.captions.edits import edit as edit_layer
    from sharecap.captions.edits import read_edits, shorten
    from sharecap.captions.layer import only_layer
    from sharecap.captions.merge import merged_lines
    from sharecap.errors import UsageError

    if (edits is None) != first_sentence:
        raise UsageError("give either --edits FILE or --first-sentence")
    name = layer or only_layer(dataset)
    made = shorten(dataset, name, to) if edits is None else edit_layer(dataset, name, read_edits(edits), to)
    show(plain(made), as_json, merged_lines(made))


def export(
    dataset: Annotated[Path, typer.Argument(help="A dataset with captions.")],
    *,
    form: Annotated[
        str,
        typer.Option(
            "--format", help="llava (JSON), hf (Parquet), webdataset (tars) or sidecar (.txt beside images)."
        ),
    ] = "llava",
    out: Annotated[Path | None, typer.Option(help="File (llava) or new directory (hf, webdataset).")] = None,
    layer: Annotated[str | None, typer.Option(help="Which captions (default: the only ones).")] = None,
    image_root: Annotated[
        Path | None, typer.Option(help="llava: folder that paths are relative to (default: absolute paths).")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="llava: draws the instruction of each row.")] = None,
    instructions: Annotated[
        Path | None, typer.Option(help="llava: text file of instructions, one a line (default: our own).")
    ] = None,
    shard_mb: Annotated[
        int | None, typer.Option(min=1, help="hf, webdataset: size of a shard in MB (default: 500).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write captions for trainers and tools. A row never goes without its image."""
    from sharecap.artifact import plain
    from sharecap.captions.export import export as export_layer
    from sharecap.captions.export import exported_lines, target_of
    from sharecap.captions.layer import only_layer
    from sharecap.images.progress import Progress

    target = target_of(
        form, dataset, out, image_root=image_root, seed=seed, instructions=instructions, shard_mb=shard_mb
    )
    progress = Progress("exported")
    report = export_layer(dataset, layer or only_layer(dataset), target, progress=progress)
    show(plain(report), as_json, exported_lines(report))


def card(
    dataset: Annotated[Path, typer.Argument(help="A dataset with captions.")],
    *,
    to: Annotated[Path, typer.Option(help="Directory, best that of an export.")],
    name: Annotated[str, typer.Option(help="What the data set is called.")],
    licence: Annotated[str, typer.Option(help="Licence of the captions, best an SPDX name.")],
    terms: Annotated[
        str, typer.Option(help="The teacher's terms of use: where they stand, or what they allow.")
    ],
    layer: Annotated[str | None, typer.Option(help="Which captions (default: the only ones).")] = None,
    as_json: AsJson = False,
) -> None:
    """Write README.md and croissant.json: counts, teacher, prompts, dates, every drop, cost, licences."""
    from sharecap.artifact import plain
    from sharecap.captions.card import Said, write_card
    from sharecap.captions.layer import only_layer

    files = write_card(dataset, layer or only_layer(dataset), to, Said(licence, terms, name))
    show(plain(files), as_json, [str(file) for file in files])
