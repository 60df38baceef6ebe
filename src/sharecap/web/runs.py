"""What runs say of themselves on disk, read again and again while they go on: captioning and training.

Reads the ledger (SQLite, read-only), the notes of captioning runs, and the lines of metrics that training
writes. It holds no lock and changes nothing, so a run never waits for whoever watches it.
"""

import json
import math
import sqlite3
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sharecap import artifact
from sharecap.captions.gates import DEFAULT_THRESHOLDS, FAILURES, REFUSALS, TRUNCATIONS
from sharecap.captions.ledger import read_only
from sharecap.captions.running import Running, alive
from sharecap.captions.running import runs as noted_runs
from sharecap.errors import SharecapError
from sharecap.images.dataset import LEDGER

METRICS = "metrics.jsonl"
CURVES = {
    "loss": "loss per learned token",
    "tokens_per_s": "tokens per second",
    "mfu": "share of the machine's peak",
}
"""What is drawn of a training run's metrics, and kept of them in memory."""

RATE_S = 60.0
"""Seconds over which a run's rate is taken."""

DEPTH, MOST_RUNS = 6, 200
"""How deep below a given directory training runs are looked for, and how many are shown."""

POINTS = 300
"""Points of a drawn curve."""


@dataclass(frozen=True)
class Failure:
    """One kind of failure of a captioning run."""

    kind: str
    requests: int
    examples: list[tuple[str, str]]  # image id, what was said


@dataclass(frozen=True)
class Gate:
    """How near a gate of a captioning run is to closing. The others are told when they close."""

    name: str
    share: float  # of the newest outcomes
    bound: float  # above it, the run stops


@dataclass(frozen=True)
class CaptionRun:
    """One captioning run as the ledger has it now."""

    about: Running
    alive: bool
    done: int
    failed: int
    out: int  # requests on their way
    cost_usd: float  # settled, doubtful and set aside
    priced: bool
    rate: float  # captions per second, lately
    failures: list[Failure]
    gates: list[Gate]

    @property
    def share(self) -> float:
        """Of the catalog, 0 to 1."""
        return min(1.0, (self.done + self.failed) / max(1, self.about.images))

    @property
    def seconds_left(self) -> float | None:
        """At the rate of now."""
        left = self.about.images - self.done - self.failed
        return left / self.rate if self.rate > 0 and self.alive else None

    @property
    def state(self) -> str:
        """In a word or a line."""
        if self.alive:
            return "running"
        return self.about.outcome or "killed: the same command goes on"


def caption_runs(dataset: Path) -> list[CaptionRun]:
    """All runs that were noted, the newest first."""
    db = read_only(dataset / LEDGER)
    if db is None:
        return []
    try:
        return [_counted(db, about) for about in noted_runs(dataset)[:20]]
    except sqlite3.Error as error:
        raise SharecapError(f"cannot read the ledger ({error})", where=dataset / LEDGER) from None
    finally:
        db.close()


def _counted(db: sqlite3.Connection, about: Running) -> CaptionRun:
    where = "model = ? AND prompt_id LIKE ? ESCAPE '!'"
    prompts = about.prompts.replace("!", "!!").replace("%", "!%").replace("_", "!_") + "%"
    asked = (about.captioner, prompts)
    now = time.time()
    done, failed, out, usd, priced, lately = db.execute(
        "SELECT coalesce(sum(state = 'done'), 0), coalesce(sum(state = 'failed'), 0), "
        "coalesce(sum(state = 'sent'), 0), "
        "total(cost_usd) + total(doubtful_usd) + total(reserved_usd), count(cost_usd), "
        f"coalesce(sum(state = 'done' AND changed_at > ?), 0) FROM requests WHERE {where}",
        (now - RATE_S, *asked),
    ).fetchone()
    failures = []
    kinds = db.execute(
        f"SELECT error_kind, count(*) FROM requests WHERE {where} AND state = 'failed' "
        "GROUP BY 1 ORDER BY 2 DESC",
        asked,
    ).fetchall()
    for kind, count in kinds:
        rows = db.execute(
            "SELECT image_id, coalesce(text, error, '') FROM requests LEFT JOIN texts USING (id) "
            f"WHERE {where} AND state = 'failed' AND error_kind IS ? ORDER BY id DESC LIMIT 3",
            (*asked, kind),
        ).fetchall()
        failures.append(Failure(kind or "error", count, [(image, said[:300]) for image, said in rows]))
    spell = min(RATE_S, max(1.0, now - about.started))
    newest = db.execute(
        f"SELECT coalesce(error_kind, '') FROM requests WHERE {where} AND state IN ('done', 'failed') "
        f"ORDER BY id DESC LIMIT {DEFAULT_THRESHOLDS.stretch}",
        asked,
    ).fetchall()
    gates = _gates([kind for (kind,) in newest])
    return CaptionRun(
        about,
        alive(about),
        done,
        failed,
        out,
        usd,
        bool(priced),
        lately / spell if alive(about) else 0.0,
        failures,
        gates,
    )


def _gates(newest: Sequence[str]) -> list[Gate]:
    """The gates that can be told from outcomes alone; `newest` are kinds of failure, "" for a caption.

    Over all sources together, where the run looks at each: a hint, and not the run's own count.
    """
    bounds = DEFAULT_THRESHOLDS
    if len(newest) < bounds.failures_after:
        return []
    window = newest[: bounds.failures_window]

    def share(of: Sequence[str], kinds: Sequence[str]) -> float:
        return sum(kind in kinds for kind in of) / len(of)

    return [
        Gate(FAILURES, sum(map(bool, window)) / len(window), bounds.failures),
        Gate(REFUSALS, share(newest, ("refusal", "content_filter")), bounds.refusals),
        Gate(TRUNCATIONS, share(newest, ("truncated",)), bounds.truncations),
    ]


@dataclass
class Training:
    """One training run: its lines of metrics so far."""

    name: str
    path: Path
    lines: list[dict[str, Any]] = field(default_factory=list)
    read: int = 0  # bytes

    @property
    def state(self) -> str:
        """In a word."""
        if (self.path.parent / artifact.MANIFEST).exists():
            return "finished"
        return "unfinished" if time.time() - self.path.stat().st_mtime > RATE_S else "running"

    @property
    def last(self) -> dict[str, Any]:
        """The newest line."""
        return self.lines[-1] if self.lines else {}

    def update(self) -> None:
        """Take in what was written since; a file that has become shorter (a resumed run) is read anew."""
        size = self.path.stat().st_size
        if size < self.read:
            self.lines, self.read = [], 0
        with open(self.path, "rb") as file:
            file.seek(self.read)
            data = file.read(32 * 2**20)
        whole = data.rfind(b"\n") + 1
        for line in data[:whole].splitlines():
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if isinstance(found, dict) and isinstance(found.get("step"), int):
                self.lines.append({k: found[k] for k in ("step", *CURVES) if _drawable(found.get(k))})
        self.read += whole


def _drawable(value: object) -> bool:
    """A number with a place on an axis; a loss that diverged has none."""
    return type(value) in (int, float) and abs(value) < 1e15 and math.isfinite(value)  # type: ignore[arg-type]


class Trainings:
    """Training runs below some directories, with what was read of them so far; for all threads."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self.roots, self._known, self._lock = tuple(roots), dict[Path, Training](), threading.Lock()

    def now(self) -> list[Training]:
        """All runs, up to date."""
        with self._lock:  # two that read on at once would take the same lines in twice
            return self._read()

    def _read(self) -> list[Training]:
        found = []
        for root in self.roots:
            for path in sorted(_metrics(root, DEPTH))[:MOST_RUNS]:
                name = path.parent.relative_to(root.parent).as_posix()
                run = self._known.setdefault(path, Training(name, path))
                try:
                    run.update()
                except OSError:
                    continue
                found.append(run)
        return found


def _metrics(root: Path, depth: int) -> list[Path]:
    try:
        found = [root / METRICS] if (root / METRICS).is_file() else []
        folders = [p for p in root.iterdir() if p.is_dir() and not p.is_symlink()] if depth else []
    except OSError:  # a run may remove what it is done with, and not all is ours to read
        return []
    for path in folders:
        found += _metrics(path, depth - 1)
    return found


@dataclass(frozen=True)
class Curve:
    """One run's line in a plot of 600 x 220."""

    name: str
    points: str  # of an SVG polyline
    style: int  # which dashes
    last: float


@dataclass(frozen=True)
class Plot:
    """Curves over one pair of axes."""

    title: str
    curves: list[Curve]
    low: float
    high: float
    steps: int


def plot(runs: Sequence[Training], key: str, title: str) -> Plot | None:
    """`key` over the steps of all runs that have it; None where none has."""
    series = []
    for run in runs:
        xy = [(line["step"], float(line[key])) for line in run.lines if key in line and "step" in line]
        if xy:
            series.append((run.name, _thinned(xy)))
    if not series:
        return None
    ys = [y for _, xy in series for _, y in xy]
    low, high = min(ys), max(ys)
    steps = int(max(x for _, xy in series for x, _ in xy))
    wide, tall = 600 / max(1, steps), 220 / ((high - low) or 1.0)
    curves = [
        Curve(name, " ".join(f"{x * wide:.1f},{220 - (y - low) * tall:.1f}" for x, y in xy), n % 6, xy[-1][1])
        for n, (name, xy) in enumerate(series)
    ]
    return Plot(title, curves, low, high, steps)


def _thinned(xy: list[tuple[int, float]]) -> list[tuple[float, float]]:
    """Means of runs of points that follow each other."""
    size = -(-len(xy) // POINTS)
    parts = [xy[at : at + size] for at in range(0, len(xy), size)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]
