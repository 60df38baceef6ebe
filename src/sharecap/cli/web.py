"""Commands with a page or a conversation: view, ask."""

from pathlib import Path
from typing import Annotated

import typer

from sharecap.cli.output import CONTROLS, AsJson, show


def view(
    dataset: Annotated[Path, typer.Argument(help="A dataset that `sharecap add` made.")],
    *,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Beyond this machine, a token is needed (printed).")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8321,
    runs: Annotated[
        list[Path] | None, typer.Option(help="Directory with training runs to be watched (repeatable).")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Model that may be asked: http(s)://…/v1#MODEL, openai:MODEL, DIRECTORY (repeatable)."
        ),
    ] = None,
) -> None:
    """Look at images and captions in the browser, edit them, compare them blind, watch runs, ask a model."""
    from sharecap.web.serving import serve_dataset

    serve_dataset(dataset, host, port, runs or [], model or [])


def ask(
    model: Annotated[str, typer.Argument(help="http(s)://…/v1#MODEL, openai:MODEL, or a model's directory.")],
    image: Annotated[Path, typer.Argument(help="An image file.")],
    question: Annotated[str, typer.Argument(help="What to ask about it.")],
    *,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens of the answer at most.")] = 512,
    as_json: AsJson = False,
) -> None:
    """Ask a model about one image; the answer is printed as it comes."""
    from sharecap.web.terminal import ask_in_terminal

    def say(piece: str) -> None:
        print(CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", piece), end="", flush=True)

    said = ask_in_terminal(model, image, question, max_tokens, (lambda _: None) if as_json else say)
    if as_json:
        show({"model": model, "image": str(image), "question": question, "answer": said}, True, [])
    else:
        print()
