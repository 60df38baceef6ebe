"""Commands that ask a judge about captions: judge, prefer."""

from pathlib import Path
from typing import Annotated

import typer

from sharecap.cli.output import AsJson, show
from sharecap.errors import UsageError

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
Temperature = Annotated[
    float | None, typer.Option("--temperature", min=0.0, help="Default: the server's own; 0 varies least.")
]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Ask again what failed.")]


def judge(
    dataset: Annotated[Path, typer.Argument(help="A dataset with captions.")],
    layers: Annotated[list[str], typer.Argument(help="The captions; with --questions also several.")],
    *,
    model: JudgeModel,
    images: Images = None,
    questions: Annotated[
        int | None,
        typer.Option(min=1, max=50, help="Ask so many questions an image of the captions alone, instead."),
    ] = None,
    checked: Annotated[
        Path | None,
        typer.Option(help="Lines of LAYER.claims.jsonl with verdicts put right by you, for the correction."),
    ] = None,
    budget: BudgetUsd = None,
    price: PriceOf = None,
    concurrency: AtOnce = None,
    temperature: Temperature = None,
    retry_failed: RetryFailed = False,
    as_json: AsJson = False,
) -> None:
    """Have a model judge captions without references: what share of their claims does the picture support?"""
    from sharecap.artifact import plain
    from sharecap.quality.cases import Bench
    from sharecap.quality.claims import claims_lines, judge_claims
    from sharecap.quality.usefulness import judge_usefulness, useful_lines

    bench = Bench(dataset, model, budget, price or (), concurrency, temperature, retry_failed, quiet=False)
    if questions is not None:
        if checked:
            raise UsageError("--checked is about claims", todo="leave out --questions")
        useful = judge_usefulness(bench, layers, questions, images=images)
        show(plain(useful), as_json, useful_lines(useful))
        return
    if len(layers) != 1:
        raise UsageError("claims are judged of one layer at a time", where=" ".join(layers))
    report = judge_claims(bench, layers[0], images=images, checked=checked)
    show(plain(report), as_json, claims_lines(report))


def prefer(
    dataset: Annotated[Path, typer.Argument(help="A dataset with captions.")],
    layers: Annotated[list[str], typer.Argument(help="Two or more layers to compare.")],
    *,
    model: JudgeModel,
    images: Images = None,
    budget: BudgetUsd = None,
    price: PriceOf = None,
    concurrency: AtOnce = None,
    temperature: Temperature = None,
    retry_failed: RetryFailed = False,
    as_json: AsJson = False,
) -> None:
    """Have a model say which captions it prefers: blind, in both orders, as the paper's Table 2 does."""
    from sharecap.artifact import plain
    from sharecap.quality.cases import Bench
    from sharecap.quality.comparison import compare_layers, prefer_lines

    bench = Bench(dataset, model, budget, price or (), concurrency, temperature, retry_failed, quiet=False)
    report = compare_layers(bench, layers, images=images)
    show(plain(report), as_json, prefer_lines(report))
