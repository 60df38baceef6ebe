"""Progress: one line that says what is done, how fast, what it costs and how long it will take."""

import io

from sharecap.images.progress import Progress, in_words


def test_without_a_terminal_a_line_comes_every_few_seconds() -> None:
    now, stream = [0.0], io.StringIO()
    progress = Progress("captioned", total=1000, stream=stream, clock=lambda: now[0])
    progress.done = 100  # of earlier runs: no part of the rate
    with progress.shown():
        for second in range(1, 21):
            now[0] = second
            progress.done, progress.failed, progress.cost_usd = 100 + 10 * second, 1, 0.25
            progress.tick()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 5
    assert lines[0] == "captioned 150/1,000 · 1 failed · 10.0/s · $0.2500 · 1 min 25 s left"


def test_a_quiet_one_says_nothing() -> None:
    stream = io.StringIO()
    with Progress("captioned", stream=stream, quiet=True).shown() as progress:
        progress.tick(force=True)
    assert stream.getvalue() == ""


def test_time_is_told_in_words() -> None:
    assert [in_words(s) for s in (0.4, 59.6, 75, 3600, 7325)] == [
        "0 s",
        "1 min 0 s",
        "1 min 15 s",
        "1 h 0 min",
        "2 h 2 min",
    ]
