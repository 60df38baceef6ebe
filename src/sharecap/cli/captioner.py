"""Commands that train a captioner on a layer: captioner train, captioner curve."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sharecap.cli.options import takes
from sharecap.cli.output import AsJson, show

if TYPE_CHECKING:
    from sharecap.recipes.captioner import Asked
    from sharecap.recipes.recipe import Recipe

app = typer.Typer(no_args_is_help=True, help="Train a captioner on a teacher's captions, and prove it.")


def wanted(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="Where the images were added to.")],
    layer: Annotated[str, typer.Argument(metavar="LAYER", help="The teacher's captions.")],
    *,
    start: Annotated[
        Path,
        typer.Option("--from", metavar="MODEL", help="Directory of a LLaVA or Qwen-VL model to start from."),
    ],
    prompts: Annotated[
        str, typer.Option(help="Prompt pack, or its file: what the captioner is asked, ever after.")
    ] = "unified",
    each_length: Annotated[
        bool,
        typer.Option("--each-length", help="Ask for each caption's own length: `--words` will work later."),
    ] = False,
    wrong_names: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="Leave out names, so that at most this share is invented."),
    ] = None,
    held_out: Annotated[
        float, typer.Option("--held-out", min=0.001, max=0.5, help="Share of the pictures to judge it by.")
    ] = 0.05,
    seed: Annotated[
        int, typer.Option(min=0, help="Which pictures are held out, and the order of the rest.")
    ] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="FIELD=VALUE", help="Change how it trains, e.g. batch_rows=64 (repeatable)."
        ),
    ] = None,
) -> "tuple[Asked, Recipe]":
    """What the options of both commands ask for."""
    from sharecap.captions.prompts import load_pack
    from sharecap.recipes.captioner import Asked, recipe
    from sharecap.recipes.settings import with_settings
    from sharecap.train.parallel import alone

    alone("a captioner learns and is judged")
    how = with_settings(
        recipe(start), [f"captioner.seed={seed}", *(f"captioner.{x}" for x in settings or ())]
    )
    asked = Asked(
        dataset,
        layer,
        load_pack(prompts),
        each_length=each_length,
        held_out=held_out,
        wrong_names=wrong_names,
        seed=seed,
    )
    return asked, how


To = Annotated[Path, typer.Option(help="Where the captioner goes.")]


@app.command("train")
@takes(wanted)
def train(given: "tuple[Asked, Recipe]", *, to: To = Path("captioner"), as_json: AsJson = False) -> None:
    """Train a captioner; keep the step that captions held-out pictures best. Interrupted, it goes on."""
    from sharecap.recipes.captioner import make_captioner
    from sharecap.train.view import watched

    done = guarded(to, lambda: make_captioner(*given, to, watched))
    show({"model": str(done.path / "model"), **done.metrics}, as_json, told(done))


@app.command("curve")
@takes(wanted)
def curve(given: "tuple[Asked, Recipe]", *, to: To = Path("captioner"), as_json: AsJson = False) -> None:
    """Train on 1/8, 1/4, 1/2 and all of the captions: where would more of the teacher's help most?"""
    from sharecap.artifact import plain
    from sharecap.recipes.captioner_curve import make_curve
    from sharecap.train.view import watched

    found = guarded(to, lambda: make_curve(*given, to, watched))
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
    if names := found.get("names"):
        lines.append(names_told(names))
    lines += [f"{n:,} captions were not used: {reason}" for reason, n in found["left_out"].items()]
    if found["cut_off"]:
        lines.append(f"{found['cut_off']:,} of its captions had no end: see finish_reason in held_out.jsonl")
    return [*lines, f"model: {done.path / 'model'}, captions side by side: {done.path / 'held_out.jsonl'}"]


def names_told(names: Any) -> str:
    """Which names a captioner gives that leaves out those it isn't sure of."""
    before = f"names: of {names['given']:,} the teacher does not give {names['invented']:,}"
    if not names["kept"]:
        why = "they are too few, or too many of them invented, to promise the share asked for"
        return f"{before}; it gives none: {why}. More pictures tell more: --held-out"
    share = names.get("share")  # captioners of earlier versions don't tell it
    told = "" if share is None else f", a share of {between(share['value'], share['low'], share['high'])}"
    return (
        f"{before}; of the {names['kept']:,} that it goes on giving, in sentences whose names have a "
        f"probability from {names['least']:.4f} on, {names['kept_invented']:,}{told}"
    )


def between(value: float, low: float | None, high: float | None) -> str:
    """For example "0.812 (0.790 to 0.833)"."""
    return f"{value:.3f}" + ("" if low is None else f" ({low:.3f} to {high:.3f})")
