"""Commands over benchmarks: eval, score, upload, benchmarks."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sharecap.cli.output import AsJson, show
from sharecap.errors import SharecapError, UsageError

if TYPE_CHECKING:
    from sharecap.evals.answerers import Answerer
    from sharecap.evals.exam import Exam


def evaluate_model(
    models: Annotated[
        list[str],
        typer.Argument(help="Model directory, http(s)://…/v1#MODEL, openai:MODEL or constant:TEXT."),
    ],
    *,
    benchmarks: Annotated[Path, typer.Option(help="Directory with mme/, mmbench/, pope/ and others in it.")],
    to: Annotated[
        Path | None,
        typer.Option(help="Where the run goes (default: evals/NAME-PROTOCOL-DIGEST); several: their parent."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Only this one; also seed-bench-ranking, capture (may be repeated)."),
    ] = None,
    protocol: Annotated[
        str, typer.Option(help="consistent: pictures padded; sharegpt4v: cut where the paper's scripts do.")
    ] = "consistent",
    blind: Annotated[bool, typer.Option("--blind", help="Show no image; see `sharecap gain`.")] = False,
    judge: Annotated[
        str | None, typer.Option(help="Grades LLaVA-Bench and MM-Vet: http(s)://…/v1#MODEL or openai:MODEL.")
    ] = None,
    judge_budget: Annotated[
        float | None, typer.Option(help="USD that the reviews of a run may cost at most.")
    ] = None,
    judge_price: Annotated[
        str | None, typer.Option(help="IN,OUT in USD per million tokens (default: sharecap's table).")
    ] = None,
    rejudge: Annotated[
        int | None, typer.Option(min=1, help="Have so many recorded reviews done again: the judge's drift.")
    ] = None,
    shard: Annotated[
        str | None, typer.Option(help="I/N: answer the I-th of N parts, for a process or GPU of its own.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions per batch of a model directory.")] = 64,
    concurrency: Annotated[int, typer.Option(min=1, help="Questions in flight to an endpoint.")] = 8,
    as_json: AsJson = False,
) -> None:
    """Answer the benchmarks' questions and score them by their own rules, with 95 % intervals."""
    from sharecap.evals.answerers import Blind, LocalModel, open_answerer
    from sharecap.evals.exam import Exam
    from sharecap.evals.judge import UnreviewedError, open_judge
    from sharecap.evals.protocols import protocol_named
    from sharecap.evals.runner import part_of, run_directory
    from sharecap.evals.suite import find_tasks, unjudged
    from sharecap.evals.tables import score_lines

    if judge is None and (judge_budget is not None or judge_price or rejudge):
        raise UsageError("no judge to pay or to ask again", todo="add --judge http(s)://…/v1#MODEL")
    how, part = protocol_named(protocol), part_of(shard) if shard else None
    opened = [open_answerer(model, batch_size=batch_size, concurrency=concurrency) for model in models]
    names = [one.name for one in opened]
    for one in opened:
        if isinstance(one, LocalModel) and names.count(one.name) > 1:  # every stage calls its model "model"
            one.name = "/".join(one.directory.resolve().parts[-3:])
    answerers = [Blind(one) if blind else one for one in opened]
    prices = [judge_price] if judge_price else []
    grader = (
        open_judge(judge, prices=prices, budget_usd=judge_budget, concurrency=concurrency) if judge else None
    )
    tasks, missing = find_tasks(benchmarks, only or (), judged=grader is not None)
    exam = Exam(tasks, how, grader, missing)
    places = [
        run_directory(one, exam, to if len(answerers) == 1 else None, below=to or Path("evals"))
        for one in answerers
    ]
    waiting = [] if grader else unjudged(benchmarks, only or ())
    found, lines, left = [], [], None
    for one, out in zip(answerers, places, strict=True):
        try:
            results, told = _one_run(one, exam, out, part, rejudge=rejudge)
        except UnreviewedError as error:  # the other scores are there, and worth seeing
            results, told, left = dict(error.results), score_lines(error.results), error
        found.append(results | {"unjudged": waiting})
        lines += told
    lines += [f"{name}: not run, a judge scores it (--judge)" for name in waiting]
    show(found[0] if len(found) == 1 else found, as_json, lines)
    if left:
        raise left


def _one_run(
    answerer: "Answerer", exam: "Exam", out: Path, part: tuple[int, int] | None, *, rejudge: int | None
) -> tuple[dict[str, Any], list[str]]:
    """Results and lines of one model's run."""
    from sharecap.evals.drift import drift, drift_lines
    from sharecap.evals.results import read_results
    from sharecap.evals.runner import answer_shard, evaluate
    from sharecap.evals.tables import score_lines
    from sharecap.images.dataset import disk_errors
    from sharecap.images.progress import Progress

    with disk_errors(out):
        if part:
            made = answer_shard(answerer, exam, out, part, progress=Progress("answered"))
            told = f"{made.metrics['answers']:,} answers: {made.path}"
            return {"path": str(made.path), **made.metrics}, [
                f"{told}; scored by the command without --shard"
            ]
        evaluate(answerer, exam, out, progress=Progress("answered"))
        results = read_results(out)
        lines = [*score_lines(results), f"run: {out}"]
        if rejudge:
            found = drift(exam, out, rejudge, progress=Progress("reviewed again"))
            results["drift"] = found
            lines += drift_lines(found)
    return results | {"path": str(out)}, lines


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
    if to and not found["withheld"]:
        with disk_errors(to):  # before anything is printed: whoever reads that may leave after a line
            keep_predictions(str(predictions[0]), records, to)
    show(found, as_json, [*score_lines(results), *task.notes])
    if found["withheld"]:
        raise SharecapError(f"no score: {found['withheld']}", where=predictions[0])


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


@benchmarks.command("get")
def get_benchmark(
    name: Annotated[str, typer.Argument(help="Its name, e.g. mme, mmbench-cn, pope or vqav2.")],
    directory: Annotated[
        Path, typer.Argument(help="Where benchmarks lie; it gets a folder of its own there.")
    ],
    *,
    as_json: AsJson = False,
) -> None:
    """Fetch a benchmark from a hub through `datasets`, and write it as the benchmark gives it out."""
    from sharecap.evals.hub import get

    folder = get(name, directory)
    show({"path": str(folder)}, as_json, [f"{name}: {folder}"])
