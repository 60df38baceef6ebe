"""The whole story on the embedded world: teacher, captioner, three arms from one start, exam.

Reads from top to bottom as the method does. Every stage is an artifact: a finished one is found again, an
interrupted one goes on. Two chains of stages run side by side; one that needs what the other is making waits
for it. A stage's number of threads never depends on what else runs: its bits don't either.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharecap.artifact import Artifact, stage
from sharecap.captions.export import export
from sharecap.captions.exports.llava import Llava
from sharecap.captions.layer import write_layer
from sharecap.captions.price import Price
from sharecap.errors import Interrupted, UsageError
from sharecap.images.add import add
from sharecap.images.catalog import Catalog
from sharecap.images.dataset import disk_errors
from sharecap.images.progress import Progress
from sharecap.records import Caption, Conversation
from sharecap.scenes.side_by_side import Chain, alone, side_by_side
from sharecap.scenes.world import Truth, WorldSpec, make_world, read_truth

if TYPE_CHECKING:
    from sharecap.captions.run_report import RunReport

ARMS = ("none", "short", "detailed")
"""The captions between the shared start and the shared instruction rows: none, short, or detailed."""

FORMULAS = ("duplicates", "opening", "boilerplate", "length")
"""Gates that would close: this small world is told of in set phrases, by its teacher as by its captioner."""

SETS = {"parts": 0, "first": 20_000, "large": 40_000, "heldout": 80_000}
"""First scene of each set of pictures; no scene is in two sets."""

PROBE_PICTURES = 96
"""Held-out pictures that teacher and captioner both caption, to be compared."""

TEXT_AT = 100_000
"""First scene that the language model reads about; it is never drawn."""


@dataclass(frozen=True)
class ArmSpec:
    """Steps and rates, the same for every arm."""

    align_steps: int = 30
    pretrain_steps: int = 520
    sft_steps: int = 260
    batch_rows: int = 16  # rows of one step
    align_rate: float = 1e-3  # peak rate of the projector while it learns alone
    vision_rate: float = 5e-5  # of the tower's latter half, and of the projector beside other parts
    rate: float = 4e-3  # of the language model in pre-training
    sft_rate: float = 2e-3  # of the language model in instruction tuning


@dataclass(frozen=True)
class QuickstartSpec:
    """Everything that decides the result."""

    seed: int = 0  # of the world and of every stage
    parts_pictures: int = 5000  # seen by the tower before the story begins
    tower_steps: int = 500
    text_rows: int = 2000  # read by the language model before the story begins
    text_steps: int = 90
    first_pictures: int = 3500  # captioned by the teacher (100K in the paper)
    mistakes: float = 0.02  # of the teacher, per attribute
    price: Price = field(default_factory=lambda: Price(2.5, 10.0))  # as if paid, USD per million tokens
    looking_steps: int = 620  # of the captioner, on captions alone
    answering_steps: int = 50  # of the captioner, on captions as answers to its one instruction
    large_pictures: int = 3000  # captioned by the captioner (1.2M in the paper)
    question_rows: int = 3000  # instruction rows with questions
    turns: int = 4  # most questions of such a row
    detail_rows: int = 200  # instruction rows that ask for details (23K of 665K in the paper)
    arm: ArmSpec = field(default_factory=ArmSpec)
    heldout_pictures: int = 300  # asked about in the exam

    @property
    def world(self) -> WorldSpec:
        """The world of this run."""
        return WorldSpec(seed=self.seed)


@dataclass(frozen=True)
class Story:
    """One run of the story, below `root`."""

    root: Path
    spec: QuickstartSpec

    def run(self) -> Path:
        """Do what is not done yet; returns the path of the report.

        Interrupted or killed at any moment, the same call goes on from there.
        """
        from sharecap.scenes.summary import find_summary, write_summary

        if self.root.exists() and not self.root.is_dir():
            raise UsageError("not a directory", where=self.root, todo="choose another place")
        if self.root.exists() and any(self.root.iterdir()) and not (self.root / "world").is_dir():
            todo = "choose an empty or new directory"
            raise UsageError("directory is not empty and holds no quickstart", where=self.root, todo=todo)
        if found := find_summary(self):
            return found
        try:
            with disk_errors(self.root):
                self.world()
                self.apart(self.tower_to_detailed_arm, self.language_to_other_arms)
                return write_summary(self)
        except KeyboardInterrupt:
            raise Interrupted("interrupted", todo="run the same command again to go on") from None

    def apart(self, *chains: Chain) -> None:
        """Run chains of stages side by side, each on a core of its own."""
        side_by_side([partial(on_disk, self.root, chain) for chain in chains])

    def tower_to_detailed_arm(self) -> None:
        """The tower, the captioner, what it makes, and the arm that learns from that."""
        self.tower()
        self.captioner()
        self.large()
        self.probe()
        self.arm("detailed")

    def language_to_other_arms(self) -> None:
        """The language model, the captions that need no model, and the arms that need no captioner."""
        self.language()
        self.first()
        self.short()
        self.arm("short")
        self.arm("none")

    def stage(self, name: str, *what: Any, **more: Any) -> Artifact:
        """The stage's artifact below `root`. While another chain is making it, wait and take what it made."""
        with alone(self.root / name):
            return stage(self.root / name, *what, **more)

    # The pictures, and the parts that everything starts from.

    def world(self) -> Artifact:
        """All pictures, and the exam about the held-out ones."""
        sizes = {
            "parts": self.spec.parts_pictures,
            "first": self.spec.first_pictures,
            "large": self.spec.large_pictures,
            "heldout": self.spec.heldout_pictures,
        }

        def work(directory: Path) -> Mapping[str, Any]:
            from sharecap.scenes.exam import write_exam

            say("drawing the world")
            for name, size in sizes.items():
                make_world(directory / name, self.spec.world, range(SETS[name], SETS[name] + size))
            truths = list(read_truth(directory / "heldout"))
            questions = write_exam(directory / "heldout", truths, self.spec.world, directory / "exam")
            return {"pictures": sizes, "questions": questions}

        return self.stage("world", "world", {"world": self.spec.world, "sizes": sizes}, {}, work)

    def truths(self, name: str) -> list[Truth]:
        """The truths of one set of pictures."""
        return list(read_truth(self.root / "world" / name))

    def tower(self) -> Artifact:
        """The stand-in for CLIP."""
        from sharecap.scenes.parts import TowerSpec, make_tower

        spec = TowerSpec(side=self.spec.world.side, steps=self.spec.tower_steps, seed=self.spec.seed)

        def work(directory: Path) -> Mapping[str, Any]:
            with progress("vision tower: steps", spec.steps) as watched:
                pictures = self.root / "world" / "parts"
                return make_tower(pictures, self.spec.world, spec, directory, partial(advance, watched))

        return self.stage("tower", "tower", spec, {"world": self.world().digest}, work)

    def language(self, name: str = "language", **changes: Any) -> Artifact:
        """The stand-in for Vicuna: a language model that has read text, and never seen a picture."""
        from sharecap.scenes.parts import LanguageSpec

        spec = LanguageSpec(seed=self.spec.seed, **changes)
        config = {
            "spec": spec,
            "world": self.spec.world,
            "rows": self.spec.text_rows,
            "turns": self.spec.turns,
            "steps": self.spec.text_steps,
        }

        def work(directory: Path) -> Mapping[str, Any]:
            from sharecap.scenes.parts import make_language
            from sharecap.scenes.rows import text_rows

            indices = range(TEXT_AT, TEXT_AT + self.spec.text_rows)
            rows = text_rows(self.spec.world, indices, self.spec.turns)
            with progress(f"{name} model: steps", self.spec.text_steps) as watched:
                return make_language(rows, self.spec.text_steps, spec, directory, partial(advance, watched))

        return self.stage(name, "language", config, {}, work, content=("model",))

    def start(self, name: str = "start", language: Artifact | None = None, **changes: Any) -> Artifact:
        """Tower and language model with a fresh projector: where the captioner and every arm start."""
        speaks = language or self.language()

        def work(directory: Path) -> Mapping[str, Any]:
            from sharecap.model import folder
            from sharecap.model.build import Parts, build

            parts = Parts(self.root / "tower", speaks.path / "model", seed=self.spec.seed, **changes)
            folder.save(build(parts), directory / "model")
            return {}

        inputs = {"tower": self.tower().digest, "language": speaks.digest}
        config = {"seed": self.spec.seed, **changes}
        return self.stage(name, "model", config, inputs, work, content=("model",))

    # Captions: the teacher's, and what the captioner makes of them.

    def first(self) -> Artifact:
        """The first pictures, captioned by the teacher over HTTP with a prompt made for each source."""

        def work(directory: Path) -> Mapping[str, Any]:
            from sharecap.scenes.rows import unified

            world, dataset = self.root / "world" / "first", directory / "dataset"
            add([world / "images"], dataset)
            report = self.ask_teacher(world, dataset)
            export(dataset, "teacher", Llava(directory / "teacher.json", (unified(),)))
            return vars(report)

        config = {"mistakes": self.spec.mistakes, "price": self.spec.price, "seed": self.spec.seed}
        inputs = {"world": self.world().digest}
        return self.stage("first", "captions", config, inputs, work, content=("teacher.json",))

    def captioner(self) -> Artifact:
        """The start, trained on the teacher's captions with one instruction for every source."""
        from sharecap.scenes.arms import captioner

        spec = self.spec
        look, answer = captioner(spec.arm, spec.looking_steps, spec.answering_steps, spec.seed)
        inputs = {"start": self.start().digest, "captions": self.first().digest}

        def rows() -> list[Conversation]:
            from sharecap.data.rows import read_rows

            return read_rows(self.root / "first" / "teacher.json")

        looking = self.train("looking", look, inputs, "start", rows)
        return self.train("captioner", answer, {**inputs, "start": looking.digest}, "looking", rows)

    def large(self) -> Artifact:
        """Many more pictures, captioned by the captioner, with one prompt."""

        def work(directory: Path) -> Mapping[str, Any]:
            dataset = directory / "dataset"
            add([self.root / "world" / "large" / "images"], dataset)
            report = self.ask_captioner(dataset)
            export(dataset, "captioner", Llava(directory / "detailed.json"))
            return vars(report)

        inputs = {"world": self.world().digest, "captioner": self.captioner().digest}
        return self.stage("large", "captions", {}, inputs, work, content=("detailed.json",))

    def short(self) -> Artifact:
        """The same pictures with short captions, as they came from the web."""

        def work(directory: Path) -> Mapping[str, Any]:
            pictures = self.root / "world" / "large"
            dataset = directory / "dataset"
            add([pictures / "images"], dataset)
            told = {str(pictures / truth.file): truth.short for truth in self.truths("large")}
            captions = (
                Caption(image.id, "short", told[image.path], "short captions", "-", "stop")
                for image in Catalog.open(dataset)
            )
            write_layer(dataset, "short", captions)
            export(dataset, "short", Llava(directory / "short.json"))
            return {}

        inputs = {"world": self.world().digest}
        return self.stage("short", "captions", {}, inputs, work, content=("short.json",))

    def probe(self) -> Artifact:
        """Some held-out pictures, captioned by teacher and captioner: two layers of one dataset."""
        world = self.root / "world" / "heldout"
        layers = tuple(f"dataset/layers/{name}/captions.parquet" for name in ("teacher", "captioner"))

        def work(directory: Path) -> Mapping[str, Any]:
            dataset = directory / "dataset"
            add([world / truth.file for truth in self.truths("heldout")[:PROBE_PICTURES]], dataset)
            teacher = self.ask_teacher(world, dataset)
            captioner = self.ask_captioner(dataset)
            return {"teacher": vars(teacher), "captioner": vars(captioner)}

        config = {
            "pictures": PROBE_PICTURES,
            "mistakes": self.spec.mistakes,
            "price": self.spec.price,
            "seed": self.spec.seed,
        }
        inputs = {"world": self.world().digest, "captioner": self.captioner().digest}
        return self.stage("probe", "captions", config, inputs, work, content=layers)

    def ask_teacher(
        self, world: Path, dataset: Path, *, pack: str = "scenes", mistakes: float | None = None
    ) -> "RunReport":
        """Have the teacher, who knows this world, caption the dataset over HTTP into the layer "teacher"."""
        from sharecap.captions.run import run
        from sharecap.scenes.simulator import Settings, serving

        wrong = self.spec.mistakes if mistakes is None else mistakes
        settings = Settings(truth=(world / "truth.jsonl",), mistakes=wrong, seed=self.spec.seed)
        with serving(settings) as url:
            return run(
                dataset,
                f"{url}#scenes-teacher",
                pack,
                "teacher",
                concurrency=16,
                price=self.spec.price,
                accept=FORMULAS,
                progress=Progress("teacher: captions"),
            )

    def ask_captioner(self, dataset: Path) -> "RunReport":
        """Have the captioner caption the dataset into the layer "captioner"."""
        from sharecap.captions.captioner import Sampling
        from sharecap.captions.run import run
        from sharecap.captions.teachers.local import LocalCaptioner

        return run(
            dataset,
            LocalCaptioner(self.root / "captioner" / "model", batch_size=64),
            "unified",
            "captioner",
            concurrency=256,
            sampling=Sampling(max_tokens=320),
            accept=(*FORMULAS, "truncations", "canary"),
            progress=Progress("captioner: captions"),
        )

    # The arms: the same start, steps, pictures and instruction rows; only the captions differ.

    def arm(self, name: str) -> Artifact:
        """Align, pre-train, tune, and sit the exam."""
        from sharecap.data.rows import read_rows
        from sharecap.scenes.arms import instruction_rows, stages

        configs = stages(self.spec.arm, name, self.spec.seed)
        captions = {
            "short": (self.short, "short/short.json"),
            "detailed": (self.large, "large/detailed.json"),
        }
        inputs = {"start": self.start().digest, "first": self.first().digest, "world": self.world().digest}
        teacher, details = name == "detailed", self.spec.detail_rows
        instructions = partial(instruction_rows, self, teacher=teacher, details=details)
        told = instructions
        if name in captions:
            make, file = captions[name]
            inputs["captions"] = make().digest
            told = partial(read_rows, self.root / file)
        before = "start"
        for step, config in configs.items():
            rows = instructions if step == "sft" else told
            done = self.train(f"arms/{name}/{step}", config, inputs, before, rows)
            before, inputs = f"arms/{name}/{step}", {**inputs, "start": done.digest}
        return self.exam(self.root / before / "model", name, self.root / "evals" / name)

    def train(self, name: str, config: Any, inputs: Mapping[str, str], before: str, rows: Any) -> Artifact:
        """One training stage, from the model of stage `before`, on the rows that `rows()` gives."""

        def work(directory: Path) -> Mapping[str, Any]:
            from sharecap.train.loop import train

            with progress(f"training {name}: steps", config.steps) as watched:
                start = self.root / before / "model"
                return train(config, start, rows(), directory, lambda line, _: advance(watched, line["step"]))

        config_and_rows = {"train": config.decides(), "rows": replace(self.spec, arm=ArmSpec())}
        return self.stage(name, "model", config_and_rows, inputs, work, content=("model",))

    def exam(self, model: Path, name: str, to: Path) -> Artifact:
        """A model's answers to the held-out questions, scored by the benchmarks' own rules."""
        from sharecap.evals.answerers import LocalModel
        from sharecap.evals.exam import Exam
        from sharecap.evals.runner import evaluate
        from sharecap.evals.suite import find_tasks

        tasks, missing = find_tasks(self.root / "world" / "exam")
        assert not missing, missing
        # The longest answer is a few words; the benchmarks' own bounds are made for talkative models.
        tasks = [replace(task, max_new_tokens=16) for task in tasks]
        answers = LocalModel(model, batch_size=128)
        answers.name = name
        with alone(to):
            return evaluate(answers, Exam(tasks), to, progress=Progress(f"exam of {name}: answers"))


def on_disk(root: Path, chain: Chain) -> None:
    """Run the chain; a full disk below `root` is an error of one line."""
    with disk_errors(root):
        chain()


def say(text: str) -> None:
    """One line for whoever watches; stdout belongs to results."""
    print(text, file=sys.stderr, flush=True)


def progress(verb: str, total: int) -> Any:
    """A shown progress of `total` steps."""
    return Progress(verb, total=total).shown()


def advance(watched: Progress, done: int) -> None:
    """Note how far a stage is."""
    watched.done = done
    watched.tick()
