"""A made-up report of the quickstart's shape, to be looked at and tested. Its numbers mean nothing."""

import io
import random
import re
import sys
from pathlib import Path

from PIL import Image, ImageDraw

from sharecap.report.document import (
    Commands,
    Fact,
    Gallery,
    GalleryItem,
    Interval,
    Mark,
    MarkedText,
    Number,
    Paragraph,
    Pipeline,
    Plot,
    Report,
    Section,
    Series,
    Stage,
    Table,
    Verdict,
)
from sharecap.report.html import write_report

ARMS = ("no captions", "short captions", "detailed captions")
KINDS = ("existence", "count", "colour", "position", "relation", "text", "name", "style")
TEACHER = (
    "A calm scene on a pale green ground holds three things. In the upper left stands a large red circle "
    "with a striped surface; to its right, in the middle of the top row, lies a small blue square. "
    "Below them, in the lower right, is a medium yellow triangle, plain and a little darker than the rest. "
    "The square is to the right of the circle, and the triangle is the lowest of the three."
)
CAPTIONER = (
    "On a pale green ground there are three things. A large red circle with a striped surface is in the "
    "upper left. A small blue square is in the top middle, right of the circle. "
    "A medium orange triangle is in the lower left."
)


def picture(seed: int) -> bytes:
    """A PNG of a few shapes."""
    rng = random.Random(seed)
    image = Image.new("RGB", (192, 192), rng.choice(["#dfe9d8", "#e9e2d8", "#d8e2e9"]))
    draw = ImageDraw.Draw(image)
    for x, y in rng.sample([(x, y) for x in (8, 70, 132) for y in (8, 70, 132)], 3):
        box = (x, y, x + 50, y + 50)
        shape = rng.choice([draw.ellipse, draw.rectangle])
        shape(box, fill=rng.choice(["#b8322a", "#2a5fb8", "#d9a520", "#3b8f56"]))
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def marked(label: str, text: str, right: str, wrong: str, note: str = "") -> MarkedText:
    """`text` with every match of the two patterns marked."""
    marks = [Mark(*m.span(), "right") for m in re.finditer(right, text)] if right else []
    marks += [Mark(*m.span(), "wrong") for m in re.finditer(wrong, text)] if wrong else []
    return MarkedText(label, text, tuple(marks), note)


def gallery(count: int) -> Gallery:
    """Pictures with three captions each."""
    facts = r"three things|large red circle|striped|upper left|small blue square|medium yellow triangle"
    return Gallery(
        tuple(
            GalleryItem(
                picture(seed),
                f"everyday {seed:06d}",
                (
                    MarkedText("Short", "A red circle and a blue square on green."),
                    marked("Teacher", TEACHER, facts, r"lower right", "1 of 12 facts wrong"),
                    marked("Captioner", CAPTIONER, facts, r"medium orange|lower left", "2 of 9 facts wrong"),
                ),
            )
            for seed in range(count)
        ),
        note="Stated facts are underlined: with dots where right, with waves where wrong.",
    )


def curves(stage: str, steps: int, level: float, arms: tuple[str, ...]) -> Plot:
    """A loss per step and arm that looks like training."""
    rng = random.Random(stage)
    xs = tuple(float(i) for i in range(steps))
    return Plot(
        stage,
        tuple(
            Series(
                arm,
                xs,
                tuple(
                    level * (0.25 + 0.1 * (2 - n) + 0.75 / (1 + x / 25)) * rng.uniform(0.94, 1.06) for x in xs
                ),
                emphasis=arm == "detailed captions",
            )
            for n, arm in enumerate(arms)
        ),
        "step",
        "loss per supervised token",
    )


def scores() -> Table:
    """Accuracy per question kind and arm, with paired differences."""
    rng = random.Random(7)
    rows = []
    for kind in KINDS:
        none, short = rng.uniform(35, 60), rng.uniform(45, 62)
        gain = rng.uniform(-2, 26)
        half = rng.uniform(2.5, 5)
        rows.append(
            (
                kind,
                300,
                Number(none),
                Number(short),
                Number(short + gain),
                Interval(gain, gain - half, gain + half),
                Interval(gain + 4, gain + 4 - half, gain + 4 + half),
            )
        )
    rows[-2] = (
        "name",
        300,
        Number(24.8),
        Number(None),
        Number(51.0),
        Interval(None),
        Interval(26.2, 22.0, 30.1),
    )
    return Table(
        columns=("Question", "Asked", *(a.capitalize() for a in ARMS), "Detailed − short", "Detailed − none"),
        rows=tuple(rows),
        total=(
            "all",
            2400,
            Number(48.2),
            Number(55.0),
            Number(71.3),
            Interval(16.3, 14.6, 18.0),
            Interval(23.1, 21, 25),
        ),
        title="Right answers on held-out pictures, percent",
        note="Differences in points, with the paired 95 % interval. n/a: the score could not be computed.",
        strong=4,
    )


def report() -> Report:
    """The whole page."""
    stages = (
        Stage("Draw the world", "4,200 pictures from six sources, and their truth", 11.2, start=0),
        Stage(
            "Stand-ins", "a vision tower and a language model that know words but no pictures", 38.0, start=11
        ),
        Stage("Teacher captions", "600 captions over HTTP, 91 words each", 6.4, 1.2345, 49),
        Stage("Train the captioner", "1.5 M parameters, 700 steps", 61.0, start=55),
        Stage("Caption the large set", "3,000 captions, 64 words each", 72.5, 0.0, 116),
        Stage("No captions", "questions only", 34.0, start=121),
        Stage("Short captions", "align, pretrain, questions", 66.0, start=55),
        Stage("Detailed captions", "align, pretrain, questions", 81.9, start=189),
        Stage("Evaluate", "2,400 questions to each of three models", 32.0, start=271),
    )
    return Report(
        title="Do detailed captions make a better model?",
        lead="One captioner learned from 600 teacher captions and described 3,000 pictures. Three models of "
        "one size, start and number of steps were then trained: on no captions, on short ones, on these.",
        facts=(
            Fact("Detailed captions", "71.3 %", "right answers"),
            Fact("Over short captions", "+16.3", "95 % interval +14.6 to +18.0"),
            Fact("Over no captions", "+23.1", "95 % interval +21.0 to +25.0"),
            Fact("Time", "5 min 03 s", "2 CPU cores"),
            Fact("Paid to the teacher", "$1.23", "600 captions, made-up price"),
        ),
        sections=(
            Section(
                "What came out",
                (
                    Verdict(
                        "Detailed captions beat short captions by 16.3 points "
                        "(95 % interval 14.6 to 18.0) on 2,400 questions.",
                        "good",
                    ),
                    Verdict("On questions about style the two cannot be told apart.", "neutral"),
                    Verdict("Existence got worse by 2.1 points.", "bad"),
                    Paragraph(
                        "This is one seed. The same comparison for other seeds stands in docs/results.md."
                    ),
                ),
            ),
            Section(
                "From pictures to models",
                (Pipeline(stages, 303.0, "Two cores: what does not wait for each other runs side by side."),),
            ),
            Section(
                "How good the captions are",
                (
                    Table(
                        ("Captions", "Pictures", "Words", "Facts stated", "Precision, %", "Recall, %"),
                        (
                            (
                                "Short",
                                600,
                                Number(8.1),
                                Number(2.0),
                                Interval(100, 100, 100, difference=False),
                                Interval(14, 13, 15.2, difference=False),
                            ),
                            (
                                "Teacher",
                                600,
                                Number(91.4),
                                Number(11.7),
                                Interval(95.1, 94, 96.2, difference=False),
                                Interval(83, 81, 84.6, difference=False),
                            ),
                            (
                                "Captioner",
                                600,
                                Number(64.0),
                                Number(8.8),
                                Interval(88.2, 86.9, 89.6, difference=False),
                                Interval(61, 59, 63, difference=False),
                            ),
                        ),
                        title="Stated facts against the truth of the picture",
                    ),
                ),
            ),
            Section("Pictures and their captions", (gallery(4),)),
            Section(
                "How they learned",
                (
                    curves("Align", 120, 4.0, ARMS[1:]),
                    curves("Pretrain", 700, 2.2, ARMS[1:]),
                    curves("Questions", 500, 1.6, ARMS),
                ),
            ),
            Section("Question by question", (scores(),)),
            Section(
                "Do it again",
                (
                    Commands(("make quickstart", ".venv/bin/sharecap quickstart --seed 1 --to seed-1")),
                    Table(
                        ("Environment", ""),
                        (("Python", "3.11.7"), ("torch", "2.13.0"), ("Processor", "made up, 2 cores")),
                    ),
                ),
            ),
        ),
        footer="Every number on this page was read from the artifacts of this run.",
    )


if __name__ == "__main__":
    print(write_report(report(), Path(sys.argv[1])))
