"""Commands over a data set's images: add, check, drop."""

import os
from pathlib import Path
from typing import Annotated

import typer

from sharecap.cli.output import AsJson, show


def add(
    sources: Annotated[
        list[Path],
        typer.Argument(
            help="Folders, images, tar shards, Parquet or Arrow files, LLaVA or COCO JSON, URL lists."
        ),
    ],
    *,
    to: Annotated[Path, typer.Option(help="The dataset's directory; made if need be.")],
    source: Annotated[
        str | None, typer.Option(help="Name that chooses the prompt (default: the first folder's name).")
    ] = None,
    source_column: Annotated[
        str | None, typer.Option(help="Column or field that holds the source's name.")
    ] = None,
    alt_text_column: Annotated[
        str | None, typer.Option(help="Column or field of the original caption (default: the usual names).")
    ] = None,
    image_column: Annotated[
        str | None, typer.Option(help="Column of the images (default: the usual names).")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder that listed paths are relative to (default: the list's own).")
    ] = None,
    layer: Annotated[
        str | None, typer.Option(help="Name of the captions in a LLaVA JSON (default: the file's name).")
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Ask again what a list's servers refused.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Take images into a dataset. Nothing is copied; files that are no images are counted and named."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # more would spin for 0.1 s and never get work here
    from sharecap.artifact import plain
    from sharecap.captions.given import given_lines, keep_given, lists_of
    from sharecap.images.add import add as add_images
    from sharecap.images.add import added_lines
    from sharecap.images.candidate import Options
    from sharecap.images.progress import Progress

    options = Options(source, source_column, alt_text_column, image_column, images, retry_failed)
    lists = lists_of(sources, layer, options)
    report = add_images(sources, to, options, progress=Progress("looked at"))
    given = [keep_given(to, path, name, options) for path, name in lists]
    lines = [*added_lines(report), *(line for one in given for line in given_lines(one))]
    show(plain(report) | {"given": plain(given)}, as_json, lines)


def check(
    dataset: Annotated[Path, typer.Argument(help="A dataset that `sharecap add` made.")],
    *,
    duplicates: Annotated[bool, typer.Option("--duplicates", help="Look for near-duplicates.")] = False,
    against: Annotated[
        list[Path] | None,
        typer.Option(help="Benchmark to compare with: folder, .tsv or .parquet (may be repeated)."),
    ] = None,
    bits: Annotated[
        int, typer.Option(help="Of 64 bits of look, those in which images alike may differ.")
    ] = 4,
    drop: Annotated[bool, typer.Option("--drop", help="Leave out what these two find.")] = False,
    as_json: AsJson = False,
) -> None:
    """Name what is missing, changed, broken, unlicensed, duplicated or in a benchmark (1: images are gone).

    What was found is stored beside the catalog; what is dropped is noted and stays out.
    """
    from sharecap.artifact import plain
    from sharecap.captions.screen import screen, screened_lines
    from sharecap.images.check import check as check_images
    from sharecap.images.check import checked_lines
    from sharecap.images.progress import Progress

    looked = Progress("benchmark images looked at", quiet=not against)
    found = screen(
        dataset, duplicates=duplicates, against=against or (), bits=bits, drop=drop, progress=looked
    )
    report = check_images(dataset)
    lines = [*checked_lines(report), *screened_lines(found, dataset)]
    show(plain(report) | plain(found), as_json, lines)
    if report.missing or report.changed:
        raise typer.Exit(1)


def drop(
    dataset: Annotated[Path, typer.Argument(help="A dataset that `sharecap add` made.")],
    digests: Annotated[list[str], typer.Argument(help="sha256 of the images, 64 hex digits each.")],
    *,
    reason: Annotated[str, typer.Option(help="Why; kept in the takedown list beside digest and date.")],
    as_json: AsJson = False,
) -> None:
    """Take images down: out of catalog, layers, ledger and every export, for good (exit 1 if any is left)."""
    from sharecap.artifact import plain
    from sharecap.captions.drop import drop as take_down
    from sharecap.captions.drop import dropped_lines

    report = take_down(dataset, digests, reason)
    show(plain(report), as_json, dropped_lines(report))
    if report.problems:
        raise typer.Exit(1)
