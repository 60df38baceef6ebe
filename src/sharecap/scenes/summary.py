"""The end of the story: one page and one JSON file with everything that came out, found again like any stage.

No number is typed in: all are read from manifests, logs, evaluations, caption layers and truths.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sharecap
from sharecap import artifact
from sharecap.artifact import Artifact, key_of, stage, write_atomically
from sharecap.errors import SharecapError
from sharecap.report.document import Fact, Paragraph, Report, Section, Table
from sharecap.report.html import write_report
from sharecap.report.tables import dollars, duration, number
from sharecap.scenes import summary_captions, summary_course, summary_scores
from sharecap.scenes.summary_captions import CAPTIONER, SHORT, TEACHER, Measured
from sharecap.scenes.summary_scores import ARM_NAMES, OTHERS, Scores

if TYPE_CHECKING:
    from sharecap.scenes.quickstart import Story

KIND, DIRECTORY, PAGE, RESULTS = "report", "report", "report.html", "results.json"
CODE = (".py", ".toml", ".j2", ".css")
"""Kinds of files that make up the program."""


def write_summary(story: "Story") -> Path:
    """Write page and results from the finished stages; returns the page's path."""
    stages = summary_course.read_stages(story.root)

    def work(directory: Path) -> Mapping[str, Any]:
        scores = summary_scores.read_scores(story.root / "evals")
        told = summary_captions.read_told(story)
        measured = {which: summary_captions.measure(one) for which, one in told.items()}
        gallery = summary_captions.gallery(story, told)
        found = results(story, stages, scores, measured)
        write_atomically(directory / RESULTS, json.dumps(found, indent=1, ensure_ascii=False))
        write_report(page(story, stages, scores, measured, gallery), directory / PAGE)
        return {"holds": scores.holds, "seconds": found["seconds"]}

    config, inputs = asked(story), inputs_of(stages)
    return stage(story.root / DIRECTORY, KIND, config, inputs, work).path / PAGE


def find_summary(story: "Story") -> Path | None:
    """The page's path if it is there, for this very story, program and stages; reads only manifests."""
    try:
        stages = summary_course.read_stages(story.root)
        found = artifact.read(story.root / DIRECTORY)
    except SharecapError:
        return None
    return found.path / PAGE if found.key == key_of(KIND, asked(story), inputs_of(stages)) else None


def read_results(page: Path) -> dict[str, Any]:
    """The numbers behind a page."""
    found: dict[str, Any] = json.loads((page.parent / RESULTS).read_text(encoding="utf-8"))
    return found


def result_lines(results: Mapping[str, Any]) -> list[str]:
    """For people. `results` are those behind a page, with where it lies and what this run took."""
    return [
        *results["verdicts"],
        f"this run: {duration(results['run_seconds'])}, all stages together: {duration(results['seconds'])}",
        f"report: {results['report']}",
    ]


def asked(story: "Story") -> dict[str, Any]:
    """What a report depends on beside the stages' results.

    The program is part of it: after a change every stage's own key is checked again, and the page made anew.
    """
    return {"spec": story.spec, "program": program_digest(Path(sharecap.__file__).parent)}


def program_digest(package: Path) -> str:
    """sha256 over the program's files."""
    total = hashlib.sha256()
    for path in sorted(p for p in package.rglob("*") if p.suffix in CODE):
        total.update(f"{path.relative_to(package).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return total.hexdigest()


def inputs_of(stages: Mapping[str, Artifact]) -> dict[str, str]:
    """The stages' results, and when they came: the page tells times too."""
    return {name: f"{one.digest} {one.finished}" for name, one in stages.items()}


def page(
    story: "Story",
    stages: Mapping[str, Artifact],
    scores: Scores,
    measured: Mapping[tuple[str, str], Measured],
    gallery: Any,
) -> Report:
    """The whole page."""
    sizes = stages["world"].metrics["pictures"]
    _, seconds = summary_course.spans(stages)
    said = [measured[who, "probe"] for who in (SHORT, TEACHER, CAPTIONER)]
    spread = [measured[SHORT, "large"], measured[TEACHER, "first"], measured[CAPTIONER, "large"]]
    environment = summary_course.environment()
    return Report(
        title="Do detailed captions make a better model?",
        lead=f"A captioner learned from a teacher's captions of {sizes['first']:,} pictures and then "
        f"described {sizes['large']:,} more. From one start, in equally many steps, three models learned: "
        "one from no captions, one from short ones, one from these. All three then sat the same exam.",
        facts=tuple(facts(stages, scores, said, seconds)),
        sections=(
            Section("What came out", tuple(summary_scores.verdicts(scores))),
            Section("Question by question", summary_scores.tables(scores)),
            Section(
                "How good the captions are",
                (
                    summary_captions.quality_table(
                        said,
                        "The same held-out pictures, captioned by all",
                        "Against the truth of each picture. Recall counts what a full description tells.",
                    ),
                    summary_captions.quality_table(
                        spread,
                        "The captions that the models learned from",
                        "The teacher's taught the captioner; the captioner had not seen the large set.",
                    ),
                    summary_captions.kinds_table(measured[TEACHER, "first"], measured[CAPTIONER, "large"]),
                ),
            ),
            Section("Pictures and their captions", (gallery, *summary_course.asking(story))),
            Section(
                "From pictures to models",
                (summary_course.pipeline(stages, made(story, stages, measured)),),
            ),
            Section(
                "How they learned",
                (
                    *summary_course.curves(story.root),
                    summary_course.trainings(stages),
                    summary_course.trainable(story.root),
                ),
            ),
            Section(
                "Do it again",
                (
                    Paragraph(f"This is one seed ({story.spec.seed}); another one draws another world."),
                    summary_course.commands(story),
                    Table(("Machine", ""), tuple(environment.items())),
                    summary_course.settings(story),
                ),
            ),
        ),
        footer="Every number on this page was read from the results of this run. "
        f"They stand in {RESULTS} beside it.",
    )


def facts(
    stages: Mapping[str, Artifact],
    scores: Scores,
    said: Sequence[Measured],
    seconds: float,
) -> list[Fact]:
    """The strip below the title."""
    first = scores.against[OTHERS[0]].overall
    found = [Fact("Detailed captions", f"{number(first.a.value)} of 100", "overall score")]
    for other in OTHERS:
        difference = scores.against[other].overall.difference
        low, high = (number(end, signed=True) for end in (difference.low, difference.high))
        value = number(difference.value, signed=True)
        found.append(Fact(f"Over {ARM_NAMES[other]}", value, f"95 % interval {low} to {high}"))
    for one in said[1:]:
        value = f"{number(one.precision.value)} % right"
        note = f"of what it states; tells {number(one.recall.value)} % of what is there"
        found.append(Fact(one.captioner.capitalize(), value, note))
    pictures = stages["world"].metrics["pictures"]
    captions = sum(stages[name].metrics["captions"] for name in ("first", "large"))
    note = f"{captions:,} detailed captions"
    found.append(Fact("Pictures", f"{sum(pictures.values()):,}", note))
    found.append(Fact("Time at work", duration(seconds), f"{summary_course.environment()['cores']} cores"))
    paid, spared = costs(stages)
    note = f"as if paid; the large set would have been {dollars(spared)}"
    found.append(Fact("Teacher's price", dollars(paid), note))
    return found


def costs(stages: Mapping[str, Artifact]) -> tuple[float | None, float | None]:
    """What the teacher's captions cost at the price given, and what it would have cost for the large set."""
    first, large = stages["first"].metrics, stages["large"].metrics
    paid = summary_course.cost_of(stages["first"])
    if paid is None or not first["captions"]:
        return paid, None
    return paid, paid / first["captions"] * large["images"]


def made(
    story: "Story", stages: Mapping[str, Artifact], measured: Mapping[tuple[str, str], Measured]
) -> dict[str, str]:
    """What each stage made, in a few words."""
    metrics = {name: one.metrics for name, one in stages.items()}
    world = metrics["world"]

    def captions(name: str, who: str) -> str:
        words = number(measured[who, name].words, 0)
        failed = sum(metrics[name]["failures"].values())
        return f"{metrics[name]['captions']:,} captions of {words} words" + (
            f", {failed} failed" if failed else ""
        )

    found = {
        "world": f"{sum(world['pictures'].values()):,} pictures and their truth; "
        f"{sum(world['questions'].values()):,} things to ask about {world['pictures']['heldout']:,} of them",
        "tower": f"a vision tower that tells true phrases from false ones (F1 {metrics['tower']['f1']:.2f})",
        "language": f"a language model that has read {story.spec.text_rows:,} texts and seen no picture",
        "start": "one model with a new projector, from which all start",
        "first": captions("first", TEACHER) + ", over HTTP",
        "looking": training(metrics["looking"]),
        "captioner": training(metrics["captioner"]),
        "large": captions("large", CAPTIONER),
        "short": f"{measured[SHORT, 'large'].captions:,} captions, as they came with the pictures",
        "probe": f"{metrics['probe']['teacher']['images']:,} held-out pictures",
    }
    for arm in ARM_NAMES:
        runs = [metrics[f"arms/{arm}/{step}"] for step in summary_course.STEPS]
        steps = " + ".join(f"{run['steps']:,}" for run in runs)
        found[f"arms/{arm}"] = f"align, pretrain, tune: {steps} steps"
        found[f"evals/{arm}"] = f"overall {number(metrics[f'evals/{arm}']['overall'])} of 100"
    return found


def training(metrics: Mapping[str, Any]) -> str:
    """A training run in a few words."""
    millions = sum(metrics["parameters"].values()) / 1e6
    return f"{millions:.1f} M parameters learned in {metrics['steps']:,} steps"


def results(
    story: "Story",
    stages: Mapping[str, Artifact],
    scores: Scores,
    measured: Mapping[tuple[str, str], Measured],
) -> dict[str, Any]:
    """The key numbers for machines."""
    _, seconds = summary_course.spans(stages)
    paid, spared = costs(stages)
    return {
        "seed": story.spec.seed,
        "verdicts": [verdict.text for verdict in summary_scores.verdicts(scores)],
        **summary_scores.as_json(scores),
        "captions": [summary_captions.as_json(one) for one in measured.values()],
        "seconds": seconds,
        "stage_seconds": {name: one.seconds for name, one in stages.items()},
        "teacher_usd": paid,
        "teacher_usd_for_large_set": spared,
        "environment": summary_course.environment(),
    }
