"""Commands that ask a judge about captions: judge, prefer."""

from pathlib import Path
from typing import Annotated

import typer

from sharecap.cli.output import AsJson, show

JudgeModel = Annotated[
    str, typer.Option("--judge", help="http(s)://…/v1#MODEL or openai:MODEL; not the captions' own model.")
]
Images = Annotated[int | None, typer.Option(min=1, help="Judge so many images, drawn fairly (default: all).")]
BudgetUsd = Annotated[float | None, typer.Option("--budget", help="USD that the judgement may cost at most.")]
PriceOf = Annotated[
    list[str] | None,
    typer.Option("--price", help="[MODEL=]IN,OUT in USD per million tokens (default: sharecap's table)."),
]
AtOnce = Annotated[int | None, typer.Option("--concurrency", min=1, help="Requests in flight (default: 16).")]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Ask again what failed.")]


def judge(
    dataset: Annotated[Path, typer.Argument(help="A dataset with captions.")],
    layer: Annotated[str, typer.Argument(help="The captions to judge.")],
    *,
    model: JudgeModel,
    images: Images = None,
    checked: Annotated[
        Path | None,
        typer.Option(help="Lines of LAYER.claims.jsonl with verdicts put right by you, for the correction."),
    ] = None,
    budget: BudgetUsd = None,
    price: PriceOf = None,
    concurrency: AtOnce = None,
    retry_failed: RetryFailed = False,
    as_json: AsJson = False,
) -> None:
    """Have a model judge captions without references: what share of their claims does the picture support?"""
    from sharecap.artifact import plain
    from sharecap.quality.cases import Bench
    from sharecap.quality.claims import claims_lines, judge_claims

    bench = Bench(dataset, model, budget, price or (), concurrency, retry_failed, quiet=False)
    report = judge_claims(bench, layer, images=images, checked=checked)
    show(plain(report), as_json, claims_lines(report))
