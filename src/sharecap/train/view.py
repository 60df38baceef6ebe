"""A run as someone watches it: one live line on a terminal, a plain line every few seconds elsewhere."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from sharecap.images.progress import Progress as Shown
from sharecap.train.metrics import LOSS, QUALITY, Progress


@contextmanager
def watched(name: str) -> Iterator[Progress]:
    """Show a run while the block lasts; what it yields is `train`'s `progress`."""
    shown = Shown(f"training {name}: steps")
    with ExitStack() as stack:

        def progress(line: dict[str, Any], total: int) -> None:
            if shown.total is None:  # the first step of this process: what was done before has no rate
                shown.total, shown.done = total, line["step"] - 1
                stack.enter_context(shown.shown())
            shown.done, shown.note = line["step"], note(line)
            shown.tick()

        yield progress


def note(line: Mapping[str, Any]) -> str:
    """For example `loss 2.131 (held out 2.204) · 12,345 tokens/s · MFU 41 % · 0.2 % waiting · 61.3 GiB`."""
    named = (("held out", LOSS), ("quality", QUALITY))
    looks = [f"{name} {line[key]:.3f}" for name, key in named if key in line]
    held_out = f" ({', '.join(looks)})" if looks else ""
    parts = (
        f"loss {line['loss']:.3f}{held_out}",
        f"{line['tokens_per_s']:,.0f} tokens/s",
        f"MFU {100 * line['mfu']:.0f} %",
        f"{100 * line['data_wait_s'] / line['seconds']:.1f} % waiting",
        f"{line['memory_bytes'] / 2**30:.1f} GiB",
    )
    return " · ".join(parts)
