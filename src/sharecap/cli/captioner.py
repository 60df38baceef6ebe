"""Commands that train a captioner on a layer: captioner train, captioner curve."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sharecap.cli.output import AsJson, show

if TYPE_CHECKING:
    from sharecap.recipes.captioner import Asked
    from sharecap.recipes.recipe import Recipe

app = typer.Typer(no_args_is_help=True, help="Train a captioner on a teacher's captions, and prove it.")

Dataset = Annotated[Path, typer.Argument(metavar="DATASET", help="Where the images were added to.")]
Layer = Annotated[str, typer.Argument(metavar="LAYER", help="The teacher's captions.")]
Start = Annotated[
    Path, typer.Option("--from", metavar="MODEL", help="Directory of a LLaVA or Qwen-VL model to start from.")
]
To = Annotated[Path, typer.Option(help="Where the captioner goes.")]
Prompts = Annotated[
    str, typer.Option(help="Prompt pack, or its file: what the captioner is asked, ever after.")
]
EachLength = Annotated[
    bool, typer.Option("--each-length", help="Ask for each caption's own length: `--words` will work later.")
]
HeldOut = Annotated[
    float, typer.Option("--held-out", min=0.001, max=0.5, help="Share of the pictures to judge it by.")
]
Seed = Annotated[int, typer.Option(min=0, help="Which pictures are held out, and the order of the rest.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="FIELD=VALUE", help="Change how it trains, e.g. batch_rows=64 (repeatable)."
    ),
]


@app.command("train")
def train(
    dataset: Dataset,
    layer: Layer,
    *,
    start: Start,
    to: To = Path("captioner"),
    prompts: Prompts = "unified",
    each_length: EachLength = False,
    held_out: HeldOut = 0.05,
    seed: Seed = 0,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Train a captioner; keep the step that captions held-out pictures best. Interrupted, it goes on."""
    asked, how = wanted(
        dataset,
        layer,
        start=start,
        prompts=prompts,
        each_length=each_length,
        held_out=held_out,
        seed=seed,
        settings=settings,
    )
    from sharecap.recipes.captioner import make_captioner
    from sharecap.train.view import watched

    done = guarded(to, lambda: make_captioner(asked, how, to, watched))
    show({"model": str(done.path / "model"), **done.metrics}, as_json, told(done))


@app.command("curve")
def curve(
    dataset: Dataset,
    layer: Layer,
    *,
    start: Start,
    to: To = Path("captioner"),
    prompts: Prompts = "unified",
    each_length: EachLength = False,
    held_out: HeldOut = 0.05,
    seed: Seed = 0,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Train on 1/8, 1/4, 1/2 and all of the captions: where would more of the teacher's help most?"""
    asked, how = wanted(
        dataset,
        layer,
        start=start,
        prompts=prompts,
        each_length=each_length,
        held_out=held_out,
        seed=seed,
        settings=settings,
    )
    from sharecap.artifact import plain
    from sharecap.recipes.captioner_curve import make_curve
    from sharecap.train.view import watched

    found = guarded(to, lambda: make_curve(asked, how, to, watched))
    lines = ["captions   spent      likeness to the teacher (95 % interval)"]
    for point in found.points:
        all_ = point.quality["all"]
        spent = "-" if point.spent_usd is None else f"${point.spent_usd:,.2f}"
        lines.append(
            f"{point.captions:8,}   {spent:>8}   {between(all_['value'], all_['low'], all_['high'])}"
        )
    cost = "" if found.next_usd is None else f" (about ${found.next_usd:,.2f} more)"
    lines.append(f"twice as many captions{cost} would add, by a line through the logarithms:")
    lines += [
        f"  {one.source:12} {one.gain.value:+.3f} ({one.gain.low:+.3f} to {one.gain.high:+.3f})"
        if one.gain.low is not None and one.gain.high is not None
        else f"  {one.source:12} {one.gain.value:+.3f} (one picture: no interval)"
        for one in found.next
    ]
    lines.append(f"picture and table: {to / 'curve.png'}, {to / 'curve.json'}")
    show(plain(found), as_json, lines)


def wanted(
    dataset: Path,
    layer: str,
    *,
    start: Path,
    prompts: str,
    each_length: bool,
    held_out: float,
    seed: int,
    settings: list[str] | None,
) -> "tuple[Asked, Recipe]":
    """What the options ask for."""
    from sharecap.captions.prompts import load_pack
    from sharecap.recipes.captioner import Asked, recipe
    from sharecap.recipes.settings import with_settings
    from sharecap.train.parallel import alone

    alone("a captioner learns and is judged")
    how = with_settings(
        recipe(start), [f"captioner.seed={seed}", *(f"captioner.{x}" for x in settings or ())]
    )
    return Asked(dataset, layer, load_pack(prompts), each_length, held_out, seed=seed), how


def guarded(to: Path, work: Any) -> Any:
    """Do it; a full disk and an interruption are one line each."""
    from sharecap.errors import Interrupted
    from sharecap.images.dataset import disk_errors

    try:
        with disk_errors(to):
            return work()
    except KeyboardInterrupt:
        raise Interrupted("interrupted", todo="run the same command again to go on") from None


def told(done: Any) -> list[str]:
    """A finished captioner, for people."""
    found, quality = done.metrics, done.metrics["quality"]
    spent = "" if found["spent_usd"] is None else f" (${found['spent_usd']:,.2f})"
    lines = [
        f"learned from {found['captions']:,} captions{spent}, {found['steps']} steps; best at step "
        f"{found['best_step']}",
        f"likeness to the teacher on {found['held_out']:,} held-out pictures (0 to 1, 95 % interval):",
        *(f"  {name:12} {between(x['value'], x['low'], x['high'])}" for name, x in quality.items()),
    ]
    lines += [f"{n:,} captions were not used: {reason}" for reason, n in found["left_out"].items()]
    if found["cut_off"]:
        lines.append(f"{found['cut_off']:,} of its captions had no end: see finish_reason in held_out.jsonl")
    return [*lines, f"model: {done.path / 'model'}, captions side by side: {done.path / 'held_out.jsonl'}"]


def between(value: float, low: float | None, high: float | None) -> str:
    """For example "0.812 (0.790 to 0.833)"."""
    return f"{value:.3f}" + ("" if low is None else f" ({low:.3f} to {high:.3f})")
