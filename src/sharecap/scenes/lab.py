"""The paper's experiments on the embedded world: every row of a table is a model, taught and examined here.

One world a seed, with the quickstart's pictures, parts, teacher and captioner; what rows share is made once.
Every stage is an artifact: interrupted anywhere, the same call goes on. All rows have the same start, steps
and exam, and one stage before the one in question: alignment on short captions.
"""

import hashlib
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharecap.artifact import Artifact
from sharecap.captions.export import export
from sharecap.captions.exports.llava import Llava
from sharecap.errors import Interrupted, UsageError
from sharecap.images.add import add
from sharecap.images.dataset import disk_errors
from sharecap.quality.tagging import TEXTBLOB, open_tagger
from sharecap.recipes.design import Captions, Design, Experiment, Model
from sharecap.records import Conversation, Turn
from sharecap.scenes.facts import stated, truth
from sharecap.scenes.language import alt_text
from sharecap.scenes.quickstart import Story, on_disk
from sharecap.scenes.side_by_side import side_by_side
from sharecap.scenes.summary_captions import file_of
from sharecap.scenes.world import Scene

if TYPE_CHECKING:
    from sharecap.train.config import TrainConfig

DETAILS_OF_LLAVA_7B = 500
"""Detailed rows beside 3,000 with questions: 14 %, as in LLaVA-7B's 158K; LLaVA-1.5's 665K have 3.5 %."""

WIDER = {"width": 192, "hidden": 192, "blocks": 4}
"""The 13B's stand-in beside the 7B's, of width 128 and 3 blocks: three times the weights in its blocks."""

MADE_BY_TEACHER: Mapping[Captions, tuple[str, float]] = {
    "human": ("scenes", 0.0),
    "one_prompt": ("unified", -1.0),
}
"""Captions that the simulated teacher writes: prompt pack, and share of mistakes (-1: the design's)."""


def check_place(root: Path, experiments: Sequence[Experiment]) -> None:
    """`UsageError`, before hours of work, for a place that can't hold it and for what it will lack."""
    for place in (root, *root.parents):
        if place.exists() and not place.is_dir():
            raise UsageError("not a directory", where=place, todo="choose another place with --to")
    names = [one.name for one in experiments]
    if len(set(names)) < len(names):
        raise UsageError("two experiments of one name would share a page", where=", ".join(names))
    if any(one.captioners for one in experiments):
        open_tagger(TEXTBLOB)


def run(bench: "Bench", experiments: Sequence[Experiment], *, jobs: int) -> None:
    """Teach and examine every model of the tables, equal ones once.

    `jobs` processes of one core each take designs from different ends; `Interrupted` on Ctrl-C.
    """
    root = bench.root
    designs = list({name_of(design): design for one in experiments for design in one.designs}.values())
    try:
        with disk_errors(root):
            bench.world()
            bench.apart(bench.tower_to_captions, bench.language_to_captions)
            chains = [partial(bench.models, ordered(designs, i, jobs)) for i in range(jobs if designs else 0)]
            side_by_side([partial(on_disk, root, chain) for chain in chains])
    except KeyboardInterrupt:
        raise Interrupted("interrupted", todo="run the same command again to go on") from None


def ordered(designs: Sequence[Design], job: int, jobs: int) -> list[Design]:
    """All designs, as one of several jobs goes through them: it comes last to what the others begin with.

    A design that another job has done is skipped, and one that it is at is waited for.
    """
    if job % 2:
        designs = designs[::-1]
    start = (job // 2) * 2 * len(designs) // max(jobs, 1)
    return [*designs[start:], *designs[:start]]


class Bench(Story):
    """A story without arms, and the models of designs on it."""

    def tower_to_captions(self) -> None:
        """The tower, the captioner, and what it makes."""
        self.tower()
        self.captioner()
        self.large()
        self.probe()

    def language_to_captions(self) -> None:
        """The language model, and the captions that need no model."""
        self.language()
        self.first()
        self.short()

    def models(self, designs: Iterable[Design]) -> None:
        """Teach and examine one after the other."""
        for design in designs:
            self.model(design)

    def model(self, design: Design) -> Artifact:
        """The exam of the model that the design describes."""
        from sharecap.scenes.arms import all_parts, stages

        arm, seed = self.spec.arm, self.spec.seed
        configs = stages(arm, "none" if design.pretrain == "questions" else "captions", seed)
        start = self.start_of(design.model)
        inputs = {"start": start.digest, "captions": self.short().digest}
        told = partial(self.captions, "short", design)
        at = f"align/{design.model}"
        # Every design aligns on short captions, so it is the same stage for all of a model.
        done = self.train(f"lab/{at}", stages(arm, "captions", seed)["align"], inputs, start.path.name, told)
        if design.pretrain != "none":
            config = replace(configs["pretrain"], rules=all_parts(arm, design.tower))
            at = f"pretrain/{self.pretrained(design)}"
            rows = partial(self.captions, design.pretrain, design)
            share = f"{design.images}" if design.images == 1 else f"{design.images}, drawn by name"
            given = {**self.source_of(design), "images": share}
            done = self.learn(at, config, done, rows, given=given)
        config = configs["sft"]
        details = DETAILS_OF_LLAVA_7B if design.model == "llava_7b" else self.spec.detail_rows
        told = partial(self.instructions, teacher=design.details == "teacher", details=details)
        given = {"first": self.first().digest, "details": f"{details} {design.details}"}
        done = self.learn(f"sft/{name_of(design)}", config, done, told, given=given)
        return self.exam(done.path / "model", name_of(design), self.exam_path(design))

    def exam_path(self, design: Design) -> Path:
        """Where the exam of a design's model lies."""
        return self.root / "lab" / "exams" / name_of(design)

    def own_paths(self, design: Design) -> list[Path]:
        """The stages that a design's model has to itself, or shares with few: all after alignment."""
        name, lab = name_of(design), self.root / "lab"
        before = [] if design.pretrain == "none" else [lab / "pretrain" / self.pretrained(design)]
        return [*before, lab / "sft" / name, lab / "exams" / name]

    def pretrained(self, design: Design) -> str:
        """The name of a design's pre-training, which knows nothing of the detailed rows after it."""
        return name_of(replace(design, details="teacher"))

    def learn(
        self, at: str, config: "TrainConfig", before: Artifact, rows: Any, *, given: Mapping[str, str]
    ) -> Artifact:
        """A training stage of the lab, on rows made of what is `given`, after the stage `before`."""
        inputs = {"start": before.digest, **given}
        return self.train(f"lab/{at}", config, inputs, str(before.path.relative_to(self.root)), rows)

    def start_of(self, model: Model) -> Artifact:
        """What a model is before it has learned anything here."""
        if model == "llava_7b":
            return self.start("start-linear", projector="linear")
        if model == "llava_1_5_13b":
            return self.start("start-13b", self.language("language-13b", **WIDER))
        if model == "qwen_vl":
            return self.start("start-qwen", self.language("language-qwen", family="qwen3"))
        return self.start()

    # What pre-training reads.

    def source_of(self, design: Design) -> dict[str, str]:
        """Digests of what the captions of a design's pre-training are made of."""
        kind = design.pretrain
        if kind == "questions":
            return {"first": self.first().digest, "world": self.world().digest}
        if kind == "short":
            return {"captions": self.short().digest}
        if kind == "teacher" or kind in MADE_BY_TEACHER:
            return {"captions": self.told(design).digest}
        if kind == "mixed":
            return {"captions": self.large().digest, "short": self.short().digest}
        return {"captions": self.large().digest, "world": self.world().digest}

    def captions(self, kind: Captions, design: Design) -> list[Conversation]:
        """The rows of alignment or pre-training."""
        from sharecap.data.rows import read_rows

        if kind == "questions":
            return self.instructions(teacher=True, details=self.spec.detail_rows)
        if kind == "short":
            rows = read_rows(self.root / "short" / "short.json")
        elif kind == "teacher" or kind in MADE_BY_TEACHER:
            rows = read_rows(self.told(design).path / "teacher.json")
        else:
            rows = read_rows(self.root / "large" / "detailed.json")
        if kind == "mixed":
            short = {row.id: row for row in read_rows(self.root / "short" / "short.json")}
            rows = [short.get(row.id, row) if place % 2 else row for place, row in enumerate(rows)]
        elif kind in ("alt_text", "trimmed"):
            scenes = {one.file: one.scene for one in self.truths("large")}
            change = with_alt_text if kind == "alt_text" else trimmed
            rows = [change(row, scenes[file_of(row.images[0])]) for row in rows]
        return some(rows, design.images)

    def instructions(self, *, teacher: bool, details: int) -> list[Conversation]:
        """The rows of instruction tuning."""
        from sharecap.scenes.arms import instruction_rows

        return instruction_rows(self, teacher=teacher, details=details)

    def told(self, design: Design) -> Artifact:
        """The large set, captioned by the teacher as the design has it."""
        pack, rate = MADE_BY_TEACHER.get(design.pretrain, ("scenes", -1.0))
        mistakes = design.mistakes if rate < 0 else rate

        def work(directory: Path) -> Mapping[str, Any]:
            world, dataset = self.root / "world" / "large", directory / "dataset"
            add([world / "images"], dataset)
            report = self.ask_teacher(world, dataset, pack=pack, mistakes=mistakes)
            export(dataset, "teacher", Llava(directory / "teacher.json"))
            return vars(report)

        config = {"mistakes": mistakes, "pack": pack, "price": self.spec.price, "seed": self.spec.seed}
        inputs = {"world": self.world().digest}
        name = f"lab/captions/{pack}-{mistakes:g}"
        return self.stage(name, "captions", config, inputs, work, content=("teacher.json",))


def name_of(design: Design) -> str:
    """A directory's name for what decides a design's model; its label is left out."""
    parts: list[str] = [design.model, design.pretrain]
    if design.pretrain != "none":
        parts += [f"{design.images:.3g} of images", f"{design.tower:.3g} of tower"]
    if design.pretrain == "teacher":
        parts.append(f"{design.mistakes:g} wrong")
    return ", ".join([*parts, design.details])


def some(rows: Sequence[Conversation], share: float) -> list[Conversation]:
    """A share of every source's rows, at least one of each, in their order.

    They are drawn by their names: a larger share holds all of a smaller one.
    """
    sources: dict[str, list[str]] = {}
    for row in rows:
        sources.setdefault(str(Path(row.images[0]).parent), []).append(row.id)
    kept = set()
    for names in sources.values():
        drawn = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
        kept.update(drawn[: max(1, round(share * len(names)))])
    return [row for row in rows if row.id in kept]


def said(row: Conversation, caption: str) -> Conversation:
    """The row with another caption."""
    (asked, answer) = row.turns
    return replace(row, turns=(asked, Turn(answer.role, caption)))


def with_alt_text(row: Conversation, scene: Scene) -> Conversation:
    """The caption behind what a web page would say beside the picture."""
    return said(row, f"{alt_text(scene, random.Random(row.id))}. {row.turns[1].text}")


def trimmed(row: Conversation, scene: Scene) -> Conversation:
    """The caption without the sentences that state something wrong; whole if nothing would be left."""
    kept = right_sentences(row.turns[1].text, scene)
    return said(row, kept or row.turns[1].text)


def right_sentences(caption: str, scene: Scene) -> str:
    """The sentences of a caption that state nothing wrong of the scene."""
    known = truth(scene)
    sentences = [f"{s.rstrip('.')}." for s in caption.split(". ") if s]
    return " ".join(s for s in sentences if all(one.fact in known for one in stated(s)))
