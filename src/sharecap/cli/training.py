"""Commands that make models: plan, train, convert."""

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sharecap.cli.output import AsJson, show

if TYPE_CHECKING:
    from sharecap.recipes.recipe import Recipe

Name = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="tiny, llava_7b, llava_1_5_7b, llava_1_5_13b, sharegpt4v_7b, sharegpt4v_13b, or "
        "FILE.py:FUNCTION, which runs the code in that file.",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Change a field, e.g. sft.batch_rows=64 (repeatable)."),
]


def plan(
    recipe: Name,
    *,
    gpus: Annotated[int, typer.Option(min=1, help="GPUs that train together.")] = 8,
    memory: Annotated[float, typer.Option(help="Memory of one GPU, GiB.")] = 80.0,
    mfu: Annotated[float, typer.Option(help="Share of the peak that training reaches.")] = 0.45,
    tflops: Annotated[
        float, typer.Option(help="Peak of one GPU in bf16, TFLOP/s: H100 and H200 989, A100 312.")
    ] = 989.0,
    data: Annotated[
        Path | None, typer.Option(help="Directory with the rows: their lengths are measured on a sample.")
    ] = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """What a recipe takes, stage by stage, without loading a model: memory, operations, hours, disk."""
    from sharecap.recipes.find import find_recipe
    from sharecap.recipes.plan import Machine, as_data, lines
    from sharecap.recipes.plan import plan as made
    from sharecap.recipes.settings import with_settings

    found = with_settings(find_recipe(recipe), settings or ())
    machine = Machine(gpus, memory, mfu, tflops)
    plans = made(found, machine, data)
    show(as_data(found, plans, machine), as_json, lines(found, plans, machine))


def train(
    recipe: Name,
    *,
    data: Annotated[
        Path, typer.Option(help="Directory with the files of rows that the recipe names.")
    ] = Path("data"),
    to: Annotated[Path | None, typer.Option(help="Where the stages go (default: runs/RECIPE).")] = None,
    stage: Annotated[str, typer.Option(help="Only this stage; what it starts from must be there.")] = "",
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Train a model stage by stage. Finished stages are skipped; interrupted, the same command goes on."""
    from sharecap.errors import Interrupted, SharecapError, UsageError
    from sharecap.images.dataset import disk_errors
    from sharecap.recipes.find import find_recipe
    from sharecap.recipes.run import run
    from sharecap.recipes.settings import differences, with_settings
    from sharecap.train.parallel import one_voice
    from sharecap.train.view import watched

    rank = int(os.environ.get("RANK", "0"))  # torchrun's
    with one_voice():
        base = find_recipe(recipe)
        found = with_settings(base, settings or ())
        changed = differences(base, found)
        place = to or Path("runs") / found.name
        if rank == 0 and not as_json:
            show(None, False, [f"recipe {found.name}", *(f"  {line}" for line in changed or ["unchanged"])])
        try:
            with disk_errors(place):
                done = run(found, data, place, watched, only=stage, rank=rank)
        except (KeyboardInterrupt, SharecapError) as error:
            if rank == 0 and not isinstance(error, UsageError):  # something was started
                with suppress(SharecapError):  # what ended the run matters more
                    drawn(found, place)
            if isinstance(error, SharecapError):
                raise
            raise Interrupted("interrupted", todo="run the same command again to go on") from None
    if rank == 0:
        page = drawn(found, place)
        results = [
            {"stage": one.path.name, "model": str(one.path / "model"), "seconds": one.seconds, **one.metrics}
            for one in done
        ]
        told = [
            f"{x['stage']}: {x['steps']} steps, loss {x['final_loss']:.3f}, model in {x['model']}"
            + (f"; {x['dropped_rows']:,} rows left out" if x["dropped_rows"] else "")
            + (f"; {x['cut_rows']:,} rows cut" if x["cut_rows"] else "")
            for x in results
        ]
        told.append(f"curves: {page}")
        result = {"recipe": found.name, "changed": changed, "stages": results, "curves": str(page)}
        show(result, as_json, told)


def drawn(recipe: "Recipe", place: Path) -> Path | None:
    """The page with the curves of all stages that are there."""
    from sharecap.report.training import write
    from sharecap.train.metrics import METRICS

    return write(
        recipe.name, {one.name: place / one.name / METRICS for one in recipe.stages}, place / "report.html"
    )


def convert(
    model: Annotated[Path, typer.Argument(help="A model's directory, such as runs/RECIPE/sft/model.")],
    *,
    language: Annotated[
        Path, typer.Option(help="The language model that it was built from (Vicuna), as downloaded.")
    ],
    to: Annotated[Path, typer.Option(help="The directory to write, empty or new.")],
    as_json: AsJson = False,
) -> None:
    """Write a model in the layout of LLaVA's own repository, for code that was written against it."""
    from sharecap.images.dataset import disk_errors
    from sharecap.model.folder import load
    from sharecap.model.original import save_original

    with disk_errors(to):
        save_original(load(model), to, language)
    show({"path": str(to)}, as_json, [f"LLaVA's layout: {to}"])
