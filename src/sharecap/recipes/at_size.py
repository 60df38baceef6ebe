"""Designs at the sizes of real models: a table as recipes whose rows share the stages before they part.

`paper` has the authors' models, files and values; `small` fits one GPU for some hours: a language model of
half a billion parameters, and a tenth of the steps. A recipe's stages are named by what decides them, so two
rows that are trained alike are trained once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from sharecap.errors import UsageError
from sharecap.model.build import Parts
from sharecap.recipes import paper, published
from sharecap.recipes.design import MISTAKES, Captions, Design, Experiment, Model
from sharecap.recipes.llava import llava_1_5_7b, llava_1_5_13b, llava_7b
from sharecap.recipes.recipe import Recipe, Source, Stage
from sharecap.recipes.sharegpt4v import BLOCKS, tower_from
from sharecap.train.config import TrainConfig

Size = Literal["small", "paper"]

QWEN = Path("models/Qwen3-VL-8B-Instruct")
"""Where a whole Qwen-VL is looked for, of the family that can be trained here (the paper's is the first one);
`--set parts=` names another place."""

BASES = {"llava_7b": llava_7b, "llava_1_5_7b": llava_1_5_7b, "llava_1_5_13b": llava_1_5_13b}

CAPTIONS: dict[Captions, Source] = {
    "short": published.LLAVA_LCS_558K,
    "captioner": published.SHAREGPT4V_PT,
    "questions": published.LLAVA_MIX_665K,
}
"""Published files; all others are made by the user, and named so."""

SMALL_LANGUAGE = {"llava_1_5_13b": "Qwen/Qwen2.5-1.5B-Instruct"}
SMALL_STEPS = 0.1

CAPTIONER_BESIDE_TEACHER = (
    "a captioner beside its teacher, on images that it hasn't learned from",
    "  sharecap captioner train DATASET teacher --from MODEL --to runs/captioner",
    "  sharecap caption HELDOUT --teacher local:runs/captioner/all/model --prompts unified --layer captioner",
    "  sharecap caption HELDOUT --teacher TEACHER --layer teacher",
    "  sharecap prefer HELDOUT captioner teacher --judge JUDGE",
    "  sharecap quality HELDOUT teacher captioner",
)
"""Table 2 needs no recipe: each of its steps is a command."""


@dataclass(frozen=True)
class Tree:
    """The stages of several designs of one model."""

    stages: dict[str, Stage]

    def add(self, stage: Stage) -> str:
        """Put it in unless it is there; returns its name."""
        self.stages.setdefault(stage.name, stage)
        return stage.name


def recipes_of(experiment: Experiment, size: str) -> list[Recipe]:
    """The table's recipes, one for each model in it; `UsageError` for a size that isn't known."""
    if size not in ("small", "paper"):
        raise UsageError(f"unknown size {size!r}", todo="sizes: scenes, small, paper")
    models = dict.fromkeys(design.model for design in experiment.designs)  # none where captions are compared
    return [
        recipe_of(experiment.name, model, [x for x in experiment.designs if x.model == model], size)
        for model in models
    ]


def recipe_of(name: str, model: Model, designs: Sequence[Design], size: str) -> Recipe:
    """One model's rows of a table as one recipe."""
    tree = Tree({})
    for design in designs:
        before = ""
        for stage in stages_of(design, size):
            before = tree.add(replace(stage, start=before))
    return Recipe(f"{name}:{size}:{model}", parts_of(model, size), tuple(tree.stages.values()))


def parts_of(model: Model, size: str) -> Parts | Path:
    """What a model is put together from."""
    if model == "qwen_vl":
        return QWEN if size == "paper" else QWEN.with_name("Qwen3-VL-2B-Instruct")
    parts = BASES[model]().parts
    if size == "paper" or isinstance(parts, Path):
        return parts
    return replace(parts, language=SMALL_LANGUAGE.get(model, "Qwen/Qwen2.5-0.5B-Instruct"))


def stages_of(design: Design, size: str) -> Iterator[Stage]:
    """A design's stages in order, each to start from the one before."""
    base = BASES.get(design.model, llava_1_5_7b)()
    if design.model != "qwen_vl":  # which is aligned when it comes
        align = base.stage("align")
        yield replace(align, train=sized(align.train, align.rows, size))
    if design.pretrain != "none":
        told = (captions_of(design),)
        train = tower_from(paper.pretrain(), round((1 - design.tower) * BLOCKS))
        train = sized(train, told, size, design.images)
        if design.pretrain == "questions":
            train = replace(train, template="vicuna_v1")
        yield Stage("pretrain-" + slug(design, told=False), train, told)
    sft = base.stage("sft")
    rows = details_of(design) if design.details == "teacher" else sft.rows
    yield Stage("sft-" + slug(design, told=True), sized(sft.train, rows, size), rows)


def sized(train: TrainConfig, rows: Sequence[Source], size: str, share: float = 1.0) -> TrainConfig:
    """The stage on a share of its rows, in a tenth of the steps if it is small."""
    share *= SMALL_STEPS if size == "small" else 1.0
    if share == 1.0:
        return train
    assert train.batch_rows is not None, "the paper's recipes count rows"
    count = sum(kind.rows for source in rows for kind in source.kinds)
    return replace(
        train, epochs=None, steps=max(1, round(share * count * (train.epochs or 1) / train.batch_rows))
    )


def captions_of(design: Design) -> Source:
    """The file that pre-training reads."""
    if design.pretrain in CAPTIONS:
        return CAPTIONS[design.pretrain]
    wrong = f"-{design.mistakes:g}-wrong" if design.mistakes != MISTAKES else ""
    return replace(
        published.SHAREGPT4V_PT,
        file=f"own/{design.pretrain}{wrong}.json",
        origin="made by you: caption, mix or curate with sharecap, then export --format llava",
    )


def details_of(design: Design) -> tuple[Source, ...]:
    """Instruction rows whose detailed ones are the teacher's."""
    if design.model != "llava_7b":
        return (published.SHAREGPT4V_MIX_665K,)
    own = published.LLAVA_INSTRUCT_158K
    todo = "made by you from llava_instruct_158k.json and the 100K: sharecap mix"
    return (replace(own, file="own/llava_instruct_158k_cap23k.json", origin=todo),)


def slug(design: Design, *, told: bool) -> str:
    """A stage's name from what decides it; `told`: the instruction rows too."""
    parts = [design.pretrain] if design.pretrain != "none" else ["plain"]
    if design.pretrain != "none":
        parts += [f"{design.images:.3g}" if design.images != 1 else "", f"tower{design.tower:g}"]
        parts.append(f"wrong{design.mistakes:g}" if design.mistakes != MISTAKES else "")
    return "-".join(part for part in (*parts, design.details if told else "") if part)


def command_lines(recipes: Sequence[Recipe], *, captioners: bool = False) -> list[str]:
    """For people: what to type on a machine with GPUs; `captioners`: to compare one with its teacher too."""
    lines = list(CAPTIONER_BESIDE_TEACHER) if captioners else []
    for recipe in recipes:
        name, to = f"lab:{recipe.name}", f"runs/lab/{recipe.name.replace(':', '/')}"
        lines += [
            f"{recipe.name}: {len(recipe.stages)} stages",
            f"  sharecap plan {name}",
            f"  torchrun --nproc-per-node 8 -m sharecap.cli train {name} --data DATA --to {to}",
        ]
        lines.append(f"  sbatch examples/slurm/train.sbatch {name} --data DATA --to {to}")
        models = [stage.name for stage in recipe.stages if stage.name.startswith("sft-")]
        lines += [f"  sharecap eval {to}/{model}/model --benchmarks BENCHMARKS" for model in models]
    return lines
