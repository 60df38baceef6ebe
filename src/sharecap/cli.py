"""The command line: parse, call, print. No logic lives here; nothing heavy is imported before it is used."""

import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from sharecap.errors import SharecapError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Better captions, better multimodal models: caption images, train on the captions, prove the gain.",
)

ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while they wait cost 5 to 10 times on shared cores
    "ARROW_DEFAULT_MEMORY_POOL": "system",  # Arrow's own keeps what it freed: 35 MiB of a captioning run
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # stderr is for our own progress; what a bar is worth is checked
}
"""What libraries read when they are imported, here and in worker processes; the user's own word wins."""

AsJson = Annotated[bool, typer.Option("--json", help="Print machine-readable results.")]


CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What names of files and captions must not do to a terminal; spelled out, it is JSON as before."""


def show(result: Any, as_json: bool, lines: list[str]) -> None:
    """Print `result` as JSON, or `lines` for people."""
    text = json.dumps(result, ensure_ascii=False, indent=1) if as_json else "\n".join(lines)
    print(CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


@app.command()
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
    from sharecap.artifact import plain
    from sharecap.captions.given import given_lines, keep_given, lists_of
    from sharecap.images.candidate import Options
    from sharecap.images.catalog import add as add_images
    from sharecap.images.catalog import added_lines
    from sharecap.images.progress import Progress

    options = Options(source, source_column, alt_text_column, image_column, images, retry_failed)
    lists = lists_of(sources, layer, options)
    report = add_images(sources, to, options, progress=Progress("looked at"))
    given = [keep_given(to, path, name, options) for path, name in lists]
    lines = [*added_lines(report), *(line for one in given for line in given_lines(one))]
    show(plain(report) | {"given": plain(given)}, as_json, lines)


@app.command()
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
    from sharecap.images.catalog import check as check_images
    from sharecap.images.catalog import checked_lines
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


@app.command()
def caption(
    dataset: Annotated[Path, typer.Argument(help="A dataset that `sharecap add` made.")],
    *,
    teacher: Annotated[
        str, typer.Option(help="http(s)://…/v1#MODEL, openai:MODEL, batch: before these, or local:DIRECTORY.")
    ],
    prompts: Annotated[str, typer.Option(help="Prompt pack: a name or a TOML file.")] = "sharegpt4v",
    layer: Annotated[str | None, typer.Option(help="Name of the captions (default: model and pack).")] = None,
    second_teacher: Annotated[
        str | None, typer.Option(help="Is asked what the teacher refuses or its filter withholds.")
    ] = None,
    words: Annotated[int | None, typer.Option(help="Length to ask for, in words.")] = None,
    language: Annotated[str | None, typer.Option(help="Language to ask for, for example German.")] = None,
    context: Annotated[
        list[str] | None,
        typer.Option(
            help="alt_text or another column in every prompt; ocr: words in the picture (repeatable)."
        ),
    ] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(help="USD that the layer may cost at most, or SOURCE=USD (repeatable)."),
    ] = None,
    price: Annotated[
        list[str] | None,
        typer.Option(help="[MODEL=]IN,OUT in USD per million tokens (default: sharecap's table)."),
    ] = None,
    image_tokens: Annotated[
        int | None, typer.Option(min=1, help="Most prompt tokens that one image can take.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of a caption.")] = 1024,
    temperature: Annotated[float | None, typer.Option(min=0.0, help="Default: the server's own.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the sampling.")] = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Requests in flight (default: 16; local: two batches).")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per batch of a local captioner.")] = 16,
    batch: Annotated[
        str, typer.Option(help='Rules of the Batch API: "requests=50000,bytes=2e8,discount=0.5,poll_s=10".')
    ] = "",
    engine: Annotated[
        str | None,
        typer.Option(help="ray or ray:workers=8,gpus=1 (cluster of RAY_ADDRESS, or one made here)."),
    ] = None,
    timeout_s: Annotated[float, typer.Option(min=1.0, help="Longest wait for one answer.")] = 300.0,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Ask again what failed.")] = False,
    accept: Annotated[
        list[str] | None, typer.Option(help="Gate that stops nothing any more, by its name (repeatable).")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count requests and cost; send nothing but a --pilot.")
    ] = False,
    pilot: Annotated[
        int | None, typer.Option(min=1, help="With --dry-run: caption so many images, forecast the rest.")
    ] = None,
    preview: Annotated[
        int | None, typer.Option(min=1, help="Show so many requests as they would be sent; send nothing.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Caption every image of a dataset. Interrupt it at any time: the same command goes on from there."""
    from sharecap.artifact import plain
    from sharecap.captions.batches import BatchRules
    from sharecap.captions.captioner import Sampling
    from sharecap.captions.cluster import open_engine
    from sharecap.captions.forecast import pilot_lines, pilot_of, preview_lines, previews
    from sharecap.captions.plan import default_layer, forecast
    from sharecap.captions.price import IMAGE_TOKENS, parse_budgets, price_of
    from sharecap.captions.prompts import load_pack
    from sharecap.captions.run import forecast_lines, plan, report_lines, run
    from sharecap.captions.teachers.open import open_teacher
    from sharecap.errors import UsageError
    from sharecap.images.progress import Progress
    from sharecap.images.words import read_words, reading_lines

    if pilot and not dry_run:
        raise UsageError("a pilot is part of a forecast", todo="give --dry-run --pilot N")
    captioner = open_teacher(teacher, timeout_s=timeout_s, batch_size=batch_size)
    second = open_teacher(second_teacher, timeout_s=timeout_s) if second_teacher else None
    pack = load_pack(prompts).with_options(words=words, language=language, context=context or ())
    name, usd = layer or default_layer(captioner, prompts), price_of(captioner.name, price or ())
    read = read_words(dataset, progress=Progress("read")) if pack.reads else None
    also, first = ({"words": plain(read)}, reading_lines(read)) if read else ({}, [])
    total_usd, source_usd = parse_budgets(budget or ())
    rules = BatchRules.parse(batch)
    paid = rules.price(usd) if teacher.startswith("batch:") else usd
    sampling = Sampling(max_tokens=max_tokens, temperature=temperature, seed=seed)
    tokens, began = image_tokens or IMAGE_TOKENS, time.time()
    wanted = plan(dataset, captioner, pack, sampling=sampling, image_tokens=tokens, retry_failed=retry_failed)
    if preview:
        shown = list(previews(wanted, paid, preview))
        show(plain(shown), as_json, first + preview_lines(shown, forecast(wanted, name, paid)))
        return
    if dry_run and not pilot:
        expected = forecast(wanted, name, paid)
        show(plain(expected) | also, as_json, first + forecast_lines(expected))
        return
    report = run(
        dataset,
        captioner,
        pack,
        name,
        concurrency=concurrency,
        budget_usd=total_usd,
        source_budgets=source_usd,
        price=usd,
        second_teacher=second,
        second_price=price_of(second.name, price or ()) if second else None,
        accept=accept or (),
        only=pilot,
        sampling=sampling,
        image_tokens=tokens,
        retry_failed=retry_failed,
        progress=Progress("captioned"),
        batch=rules,
        engine=open_engine(engine, teacher, timeout_s=timeout_s) if engine else None,
    )
    if pilot:
        made = pilot_of(wanted, paid, began)
        show(plain(made) | also, as_json, first + pilot_lines(made))
        return
    show(plain(report) | also, as_json, first + report_lines(report))
    if report.images and not report.captions:
        todo = "mend what the failures above say, then run the same command with --retry-failed"
        raise SharecapError("not one image got a caption", where=f"layer {name}", todo=todo)


@app.command()
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


@app.command()
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


@app.command()
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


@app.command()
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


@app.command()
def fuse(
    dataset: Annotated[Path, typer.Argument(help="A dataset with captions and alt-text.")],
    *,
    teacher: Annotated[str, typer.Option(help="Language model: http(s)://…/v1#MODEL or openai:MODEL.")],
    to: Annotated[str, typer.Option(help="Name of the layer that is made.")],
    layer: Annotated[str | None, typer.Option(help="Which captions (default: the only ones).")] = None,
    budget: Annotated[float | None, typer.Option(help="USD that the layer may cost at most.")] = None,
    price: Annotated[str | None, typer.Option(help="IN,OUT in USD per million tokens.")] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Requests in flight (default: 16).")] = None,
    as_json: AsJson = False,
) -> None:
    """Join captions with the alt-texts that the images came with. Sends texts only, no pictures."""
    from sharecap.artifact import plain
    from sharecap.captions.fuse import fuse as fuse_layer
    from sharecap.captions.fuse import fused_lines
    from sharecap.captions.layer import only_layer
    from sharecap.captions.price import Price
    from sharecap.images.progress import Progress

    made, report = fuse_layer(
        dataset,
        teacher,
        layer or only_layer(dataset),
        to,
        budget_usd=budget,
        price=Price.parse(price) if price else None,
        concurrency=concurrency,
        progress=Progress("fused"),
    )
    show(plain(report), as_json, fused_lines(made, report))


@app.command()
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


@app.command()
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


@app.command()
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


@app.command()
def quickstart(
    *,
    to: Annotated[
        Path | None, typer.Option(help="Where everything goes; quickstart/, or quickstart-SEED/ with a seed.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed, another world.")] = 0,
    as_json: AsJson = False,
) -> None:
    """The whole story on the embedded world, with a report. Interrupted, the same command goes on."""
    from sharecap.scenes.quickstart import QuickstartSpec, Story
    from sharecap.scenes.summary import read_results, result_lines

    clock = time.monotonic()
    # Another seed in the same place would replace, stage by stage, what took minutes to make.
    to = to or Path(f"quickstart-{seed}" if seed else "quickstart")
    page = Story(to.resolve(), QuickstartSpec(seed=seed)).run()
    results = read_results(page) | {"report": str(page), "run_seconds": time.monotonic() - clock}
    show(results, as_json, result_lines(results))


@app.command("simulate-teacher")
def simulate_teacher(
    *,
    truth: Annotated[list[Path] | None, typer.Option(help="truth.jsonl of a drawn world.")] = None,
    answers: Annotated[list[Path] | None, typer.Option(help="Recorded answers (JSON Lines).")] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port on this machine; 0 takes a free one.")
    ] = 0,
    latency_ms: Annotated[float, typer.Option(help="Time that every answer takes.")] = 0.0,
    mistakes: Annotated[float, typer.Option(help="Chance that an attribute is told wrong.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Another seed, other words and other faults.")] = 0,
    faults: Annotated[str, typer.Option(help='Probabilities per request: "429=0.05,drop=0.01".')] = "",
    retry_after_s: Annotated[float, typer.Option(help="What a 429 asks its sender to wait.")] = 1.0,
    require_key_env: Annotated[
        str | None, typer.Option(help="Environment variable that holds the key to be sent.")
    ] = None,
    log: Annotated[Path | None, typer.Option(help="One JSON line per request: digests and status.")] = None,
    batches: Annotated[
        Path | None, typer.Option(help="Offer a Batch API too, and keep its files in this directory.")
    ] = None,
    batch_faults: Annotated[
        str, typer.Option(help='busy, vanish, crowded, expire, error, lost: "expire=0.5,error=0.01".')
    ] = "",
    batch_line_ms: Annotated[float, typer.Option(help="Time that every line of a batch takes.")] = 0.0,
) -> None:
    """Answer like a teacher's endpoint on this machine, without a key or a network, with faults on demand."""
    from sharecap.scenes.batch_files import check_batch_faults
    from sharecap.scenes.faults import parse_faults
    from sharecap.scenes.simulator import Settings, serve

    settings = Settings(
        truth=tuple(truth or ()),
        answers=tuple(answers or ()),
        port=port,
        latency_ms=latency_ms,
        mistakes=mistakes,
        seed=seed,
        faults=parse_faults(faults),
        retry_after_s=retry_after_s,
        require_key_env=require_key_env,
        log=log,
        batches=batches,
        batch_faults=parse_faults(batch_faults, check_batch_faults),
        batch_line_ms=batch_line_ms,
    )
    serve(settings)


@app.command("eval")
def evaluate_model(
    model: Annotated[str, typer.Argument(help="Model directory, http(s)://…/v1#MODEL or openai:MODEL.")],
    *,
    benchmarks: Annotated[Path, typer.Option(help="Directory with mme/, mmbench/, vqav2/ in it.")],
    to: Annotated[Path | None, typer.Option(help="Where the run goes (default: evals/NAME-DIGEST).")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only this benchmark (may be repeated).")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions per batch of a model directory.")] = 64,
    concurrency: Annotated[int, typer.Option(min=1, help="Questions in flight to an endpoint.")] = 8,
    as_json: AsJson = False,
) -> None:
    """Answer the benchmarks' questions and score them by their own rules, with 95 % intervals."""
    from sharecap.evals.answerers import open_answerer
    from sharecap.evals.results import read_results
    from sharecap.evals.runner import evaluate, run_directory
    from sharecap.evals.suite import find_tasks
    from sharecap.evals.tables import score_lines
    from sharecap.images.progress import Progress

    answerer = open_answerer(model, batch_size=batch_size, concurrency=concurrency)
    tasks, missing = find_tasks(benchmarks, only or ())
    out = run_directory(answerer, tasks, missing, to)
    evaluate(answerer, tasks, out, missing=missing, progress=Progress("answered"))
    results = read_results(out)
    show(results | {"path": str(out)}, as_json, [*score_lines(results), f"run: {out}"])


@app.command()
def score(
    benchmark: Annotated[str, typer.Argument(help="mme, mmbench, vqav2 or textvqa.")],
    *,
    predictions: Annotated[Path, typer.Option(help="Predictions in one of the benchmark's own formats.")],
    data: Annotated[Path | None, typer.Option(help="Labels, where the predictions hold none.")] = None,
    rule: Annotated[str | None, typer.Option(help="VQA only: m4c, server or server-raw.")] = None,
    to: Annotated[Path | None, typer.Option(help="Keep as a run, for `sharecap compare`.")] = None,
    as_json: AsJson = False,
) -> None:
    """Score predictions that were made elsewhere by the benchmark's own rule, with 95 % intervals."""
    from sharecap.evals.results import Run, summary
    from sharecap.evals.runner import keep_predictions
    from sharecap.evals.suite import read_predictions
    from sharecap.evals.tables import score_lines
    from sharecap.evals.task import grade

    task, answers = read_predictions(benchmark, predictions, data, rule)
    records = grade(task, answers, predictions)
    if to:
        keep_predictions(str(predictions), records, to)
    results = summary(Run(str(predictions), {task.name: records}))
    show(results, as_json, score_lines(results))


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(help="A run of `sharecap eval` or `sharecap score --to`.")],
    b: Annotated[Path, typer.Argument(help="The run to compare it with.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Compare two runs on the items that both answered: differences with paired 95 % intervals."""
    from sharecap.artifact import plain
    from sharecap.evals.results import compare_runs, read_run
    from sharecap.evals.tables import comparison_lines

    found = compare_runs(read_run(a), read_run(b))
    show(plain(found), as_json, comparison_lines(found))


def main() -> None:
    """Entry point: every `SharecapError` becomes one line on stderr and its exit code."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        app()
    except SharecapError as error:
        # One line, whatever a file's name holds: line ends and terminal codes are spelled out.
        line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(error))
        print(f"sharecap: {line}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("sharecap: interrupted. Run the same command again to go on", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
