"""Commands over benchmarks: eval, score, upload, benchmarks."""

from pathlib import Path
from typing import Annotated

import typer

from sharecap.cli.output import AsJson, show
from sharecap.errors import SharecapError


def evaluate_model(
    model: Annotated[
        str, typer.Argument(help="Model directory, http(s)://…/v1#MODEL, openai:MODEL or constant:TEXT.")
    ],
    *,
    benchmarks: Annotated[Path, typer.Option(help="Directory with mme/, mmbench/, pope/ and others in it.")],
    to: Annotated[Path | None, typer.Option(help="Where the run goes (default: evals/NAME-DIGEST).")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only this benchmark (may be repeated).")] = None,
    blind: Annotated[bool, typer.Option("--blind", help="Show no image; see `sharecap gain`.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions per batch of a model directory.")] = 64,
    concurrency: Annotated[int, typer.Option(min=1, help="Questions in flight to an endpoint.")] = 8,
    as_json: AsJson = False,
) -> None:
    """Answer the benchmarks' questions and score them by their own rules, with 95 % intervals."""
    from sharecap.evals.answerers import Blind, open_answerer
    from sharecap.evals.results import read_results
    from sharecap.evals.runner import evaluate, run_directory
    from sharecap.evals.suite import find_tasks
    from sharecap.evals.tables import score_lines
    from sharecap.images.dataset import disk_errors
    from sharecap.images.progress import Progress

    answerer = open_answerer(model, batch_size=batch_size, concurrency=concurrency)
    if blind:
        answerer = Blind(answerer)
    tasks, missing = find_tasks(benchmarks, only or ())
    out = run_directory(answerer, tasks, missing, to)
    with disk_errors(out):
        evaluate(answerer, tasks, out, missing=missing, progress=Progress("answered"))
    results = read_results(out)
    show(results | {"path": str(out)}, as_json, [*score_lines(results), f"run: {out}"])


def score(
    benchmark: Annotated[str, typer.Argument(help="Its name, e.g. mme, mmbench-cn, seed-bench or pope.")],
    *,
    predictions: Annotated[
        list[Path],
        typer.Option(help="Predictions in one of the benchmark's own forms; repeat for a judge's runs."),
    ],
    labels: Annotated[Path | None, typer.Option(help="Labels, where the predictions hold none.")] = None,
    rule: Annotated[
        str | None, typer.Option(help="VQAv2, VizWiz, TextVQA only: m4c, server or server-raw.")
    ] = None,
    to: Annotated[Path | None, typer.Option(help="Keep as a run, for `sharecap compare`.")] = None,
    as_json: AsJson = False,
) -> None:
    """Score predictions that were made elsewhere by the benchmark's own rule, with 95 % intervals."""
    from sharecap.evals.results import Run, one_benchmark, summary
    from sharecap.evals.runner import keep_predictions
    from sharecap.evals.suite import read_predictions
    from sharecap.evals.tables import score_lines
    from sharecap.evals.task import grade
    from sharecap.images.dataset import disk_errors

    task, answers = read_predictions(benchmark, predictions, labels, rule)
    records = grade(task, answers, predictions[0])
    results = summary(Run(str(predictions[0]), {task.name: records}))
    found = one_benchmark(results, task.notes)
    show(found, as_json, [*score_lines(results), *task.notes])
    if found["withheld"]:
        raise SharecapError(f"no score: {found['withheld']}", where=predictions[0])
    if to:
        with disk_errors(to):
            keep_predictions(str(predictions[0]), records, to)


def upload(
    benchmark: Annotated[str, typer.Argument(help="vqav2, vizwiz, mmbench, mmbench-cn or mm-vet.")],
    *,
    predictions: Annotated[Path, typer.Option(help="Answers, e.g. LLaVA's JSON lines.")],
    to: Annotated[Path, typer.Option(help="The file to write.")],
    labels: Annotated[Path | None, typer.Option(help="MMBench's table.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write answers as the file that the benchmark's server, or its own scorer, takes."""
    from sharecap.evals.uploads import write_upload

    answers = write_upload(benchmark, predictions, labels, to)
    show({"path": str(to), "answers": answers}, as_json, [f"{answers:,} answers: {to}"])


benchmarks = typer.Typer(no_args_is_help=True, help="The benchmarks that lie on this machine.")


@benchmarks.command("check")
def check_benchmarks(
    directory: Annotated[Path, typer.Argument(help="Directory with mme/, mmbench/, pope/ and others in it.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Say which benchmarks are there and whole, in which version, and where the others are given out."""
    from sharecap.artifact import plain
    from sharecap.evals.inventory import stock_lines, take_stock

    found = take_stock(directory)
    show(plain(found), as_json, stock_lines(found))
    broken = [entry.benchmark for entry in found if entry.problem and (directory / entry.benchmark).exists()]
    if broken:
        raise SharecapError(f"{', '.join(broken)}: there, and not whole", where=directory)


@benchmarks.command("chance")
def guess_benchmarks(
    directory: Annotated[Path, typer.Argument(help="Directory with mme/, mmbench/, pope/ and others in it.")],
    *,
    only: Annotated[list[str] | None, typer.Option(help="Only this benchmark (may be repeated).")] = None,
    seed: Annotated[int, typer.Option(help="Of the guesses.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Say what guessing among the offered answers gives, by each benchmark's own rule."""
    from sharecap.artifact import plain
    from sharecap.evals.chance import chance_lines, chances
    from sharecap.evals.suite import find_tasks

    found = chances(find_tasks(directory, only or ())[0], seed)
    show(plain(found), as_json, chance_lines(found))
