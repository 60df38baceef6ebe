"""Commands that ask a teacher: caption, fuse."""

import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from sharecap.cli.output import AsJson, show
from sharecap.errors import SharecapError


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
        int | None, typer.Option(min=1, help="Requests in flight (default: 16; local: four batches).")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per batch of a local captioner.")] = 64,
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
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # more would spin for 0.1 s and never get work here
    from sharecap.artifact import plain
    from sharecap.captions.batches import BatchRules
    from sharecap.captions.captioner import Sampling
    from sharecap.captions.cluster import open_engine
    from sharecap.captions.plan import default_layer, forecast
    from sharecap.captions.price import IMAGE_TOKENS, parse_budgets, price_of
    from sharecap.captions.prompts import load_pack
    from sharecap.captions.run import plan, run
    from sharecap.captions.run_report import forecast_lines, report_lines
    from sharecap.captions.teachers.open import open_teacher
    from sharecap.errors import UsageError
    from sharecap.images.progress import Progress

    if pilot and not dry_run:
        raise UsageError("a pilot is part of a forecast", todo="give --dry-run --pilot N")
    captioner = open_teacher(teacher, timeout_s=timeout_s, batch_size=batch_size)
    second = open_teacher(second_teacher, timeout_s=timeout_s) if second_teacher else None
    pack = load_pack(prompts).with_options(words=words, language=language, context=context or ())
    name, usd = layer or default_layer(captioner, prompts), price_of(captioner.name, price or ())
    also: dict[str, Any] = {}
    first: list[str] = []
    if pack.reads:
        from sharecap.images.words import read_words, reading_lines

        read = read_words(dataset, progress=Progress("read"))
        also, first = {"words": plain(read)}, reading_lines(read)
    total_usd, source_usd = parse_budgets(budget or ())
    rules = BatchRules.parse(batch)
    paid = rules.price(usd) if teacher.startswith("batch:") else usd
    sampling = Sampling(max_tokens=max_tokens, temperature=temperature, seed=seed)
    tokens, began = image_tokens or IMAGE_TOKENS, time.time()
    wanted = plan(dataset, captioner, pack, sampling=sampling, image_tokens=tokens, retry_failed=retry_failed)
    if preview:
        from sharecap.captions.forecast import preview_lines, previews

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
        from sharecap.captions.forecast import pilot_lines, pilot_of

        made = pilot_of(wanted, paid, began)
        show(plain(made) | also, as_json, first + pilot_lines(made))
        return
    show(plain(report) | also, as_json, first + report_lines(report))
    if report.images and not report.captions:
        todo = "mend what the failures above say, then run the same command with --retry-failed"
        raise SharecapError("not one image got a caption", where=f"layer {name}", todo=todo)


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
