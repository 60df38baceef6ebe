"""Commands that ask a judge about captions: judge, prefer."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sharecap.cli.options import takes
from sharecap.cli.output import AsJson, show
from sharecap.errors import UsageError

if TYPE_CHECKING:
    from sharecap.quality.cases import Bench

Images = Annotated[int | None, typer.Option(min=1, help="Judge so many images, drawn fairly (default: all).")]


def bench(
    dataset: Annotated[Path, typer.Argument(help="A dataset with captions.")],
    *,
    model: Annotated[
        str,
        typer.Option("--judge", help="http(s)://…/v1#MODEL or openai:MODEL; not the captions' own model."),
    ],
    budget: Annotated[
        float | None, typer.Option("--budget", help="USD that the judgement may cost at most.")
    ] = None,
    price: Annotated[
        list[str] | None,
        typer.Option("--price", help="[MODEL=]IN,OUT in USD per million tokens (default: sharecap's table)."),
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option("--concurrency", min=1, help="Requests in flight (default: 16).")
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option("--temperature", min=0.0, help="Default: the server's own; 0 varies least."),
    ] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Ask again what failed.")] = False,
) -> "Bench":
    """Where a judge sits, as the options of both commands have it."""
    from sharecap.quality.cases import Bench

    return Bench(dataset, model, budget, price or (), concurrency, temperature, retry_failed, quiet=False)


@takes(bench)
def judge(
    at: "Bench",
    *,
    layers: Annotated[list[str], typer.Argument(help="The captions; with --questions also several.")],
    images: Images = None,
    questions: Annotated[
        int | None,
        typer.Option(min=1, max=50, help="Ask so many questions an image of the captions alone, instead."),
    ] = None,
    checked: Annotated[
        Path | None,
        typer.Option(help="Lines of LAYER.claims.jsonl with verdicts put right by you, for the correction."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Have a model judge captions without references: what share of their claims does the picture support?"""
    from sharecap.artifact import plain
    from sharecap.quality.claims import claims_lines, judge_claims
    from sharecap.quality.usefulness import judge_usefulness, useful_lines

    if questions is not None:
        if checked:
            raise UsageError("--checked is about claims", todo="leave out --questions")
        useful = judge_usefulness(at, layers, questions, images=images)
        show(plain(useful), as_json, useful_lines(useful))
        return
    if len(layers) != 1:
        raise UsageError("claims are judged of one layer at a time", where=" ".join(layers))
    report = judge_claims(at, layers[0], images=images, checked=checked)
    show(plain(report), as_json, claims_lines(report))


@takes(bench)
def prefer(
    at: "Bench",
    *,
    layers: Annotated[list[str], typer.Argument(help="Two or more layers to compare.")],
    images: Images = None,
    as_json: AsJson = False,
) -> None:
    """Have a model say which captions it prefers: blind, in both orders, as the paper's Table 2 does."""
    from sharecap.artifact import plain
    from sharecap.quality.comparison import compare_layers, prefer_lines

    report = compare_layers(at, layers, images=images)
    show(plain(report), as_json, prefer_lines(report))
