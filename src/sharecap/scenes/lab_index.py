"""The page that leads to all tables of a lab's directory, with what came out of each in a line."""

import json
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

from sharecap.recipes.experiments import EXPERIMENTS
from sharecap.report import document as d
from sharecap.report.html import write_report
from sharecap.scenes.lab_report import STATUS

INDEX = "index.html"
MANY = {"agrees": "agree", "contradicts": "contradict"}
"""Verdicts of more than one claim."""


def write_index(root: Path) -> Path:
    """Write `index.html` from the results that lie in `root`; returns its path."""
    there = {path.stem: path for path in root.glob("*.json") if path.with_suffix(".html").is_file()}
    order = [*EXPERIMENTS, *sorted(there.keys() - EXPERIMENTS.keys())]
    links = tuple(link_to(there[name]) for name in order if name in there)
    lacking = [name for name in EXPERIMENTS if name not in there]
    sections = [d.Section("What came out", (d.Links(links),))]
    if lacking:
        commands = d.Commands(tuple(f"sharecap lab {name} --to {shlex.quote(str(root))}" for name in lacking))
        sections.append(d.Section("Not run here", (commands,)))
    page = d.Report(
        title="Do better captions make better models?",
        lead="The claims of the ShareGPT4V paper, and some beyond it, each tried in small worlds whose truth "
        "is known. A claim agrees or contradicts only where its whole interval says so.",
        facts=(),
        sections=tuple(sections),
        footer="Each page has its numbers as JSON and its picture as PNG beside it.",
    )
    return write_report(page, root / INDEX)


def link_to(path: Path) -> d.Link:
    """One table's line, from its results."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        verdicts = Counter(str(claim["verdict"]) for claim in found["claims"])
        worlds = len(found["seeds"])
        title, where, claim = (str(found[name]) for name in ("title", "where", "claim"))
    except (OSError, ValueError, KeyError, TypeError):
        text = "These results are damaged or of another version: run its command again."
        return d.Link(f"{path.stem}.html", path.stem, text)
    told = ", ".join(f"{n} {v if n == 1 else MANY.get(v, v)}" for v, n in verdicts.items()) or "none"
    text = f"({where or 'beyond the paper'}). {claim} Claims: {told}, in {worlds} world{'s' * (worlds > 1)}."
    worst = "contradicts" if "contradicts" in verdicts else "agrees" if set(verdicts) == {"agrees"} else ""
    return d.Link(f"{path.stem}.html", title, text, STATUS.get(worst, "neutral"))
