"""What a recipe will take, stage by stage: what learns, memory of a GPU by kind, operations, hours, disk.

Nothing is loaded and nothing is computed but shapes. Lengths of rows are the recipe's own estimates, or
measured where the rows are at hand; which of the two is always said.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from sharecap.errors import SharecapError, UsageError
from sharecap.recipes import files
from sharecap.recipes.recipe import Recipe, Stage
from sharecap.recipes.shapes import places_of, shape_of
from sharecap.train.config import TrainConfig
from sharecap.train.cost import Flops, RowKind, Work, cost_of, work_of_kinds
from sharecap.train.memory import RESERVE, Imagined, Memory, PackShape, Sharding

GIB = 2**30
MOST_GPUS = 1024
PICTURE = (640, 480)  # width and height of most of COCO's pictures
NAMED = 20  # bad rows that an error names


@dataclass(frozen=True)
class Machine:
    """What the recipe is to run on."""

    gpus: int = 8
    memory: float = 80.0  # of one GPU, GiB
    mfu: float = 0.45  # share of the peak that training reaches
    tflops: float = 989.0  # peak of one GPU, bf16 without sparsity: H100 and H200 989, A100 312

    def __post_init__(self) -> None:
        finite = 0 < self.memory < math.inf and 0 < self.tflops < math.inf
        if self.gpus < 1 or not finite or not 0 < self.mfu <= 1:
            raise UsageError("a machine needs GPUs, memory, a peak, and an MFU above 0 and up to 1")

    @property
    def room(self) -> float:
        """Bytes of one GPU that training can have."""
        return self.memory * GIB * (1 - RESERVE)

    @property
    def ways(self) -> tuple[Sharding, ...]:
        """How the model can lie on the GPUs, the loop's default first."""
        return ("none",) if self.gpus == 1 else ("fsdp", "ddp")


@dataclass(frozen=True)
class StagePlan:
    """What one stage will take."""

    name: str
    table: tuple[str, ...]  # which parts learn, for people
    parameters: int
    learning: int
    kinds: tuple[RowKind, ...]
    measured: bool  # lengths of rows, from the rows themselves
    picture: tuple[int, int] | None  # pixels that every picture was taken to have, where their number matters
    rows: int
    steps: int
    work: Work  # of the whole stage
    flops: Flops  # of the whole stage
    hours: float
    memory: dict[Sharding, Memory]  # of one GPU
    fits: bool  # the first way
    remedies: tuple[str, ...]  # what would make it fit, if it doesn't
    model_bytes: int  # of the saved model
    checkpoint_bytes: int  # of one checkpoint; two lie there while the newer one is written


def plan(recipe: Recipe, machine: Machine, data: Path | None = None) -> list[StagePlan]:
    """Plan every stage. `UsageError` where nothing is known of the rows and no `data` is given.

    `SharecapError` names all rows of the samples that training would stop at.
    """
    config = shape_of(recipe.parts)
    places, picture = places_of(recipe.parts, config), None
    if data is None:
        picture = None if isinstance(places, int) else PICTURE
        taken = places if isinstance(places, int) else places.of_size(*PICTURE)
        kinds = [estimated(recipe, stage, taken) for stage in recipe.stages]
    else:
        files.check(recipe.stages, data)
        reads = files.reader_of(recipe.parts)
        found = [files.measured(one, data, reads, places) for one in recipe.stages]
        if bad := list(dict.fromkeys(row for lengths in found for row in lengths.bad)):
            more = f"; and {len(bad) - NAMED:,} more" if len(bad) > NAMED else ""
            what = f"{len(bad):,} rows can't be trained on: {'; '.join(bad[:NAMED])}{more}"
            todo = "mend them, or have their kind left out: --set STAGE.leave_out="
            raise SharecapError(what, where=data, todo=todo)
        kinds = [lengths.kinds for lengths in found]
    imagined = cache(partial(Imagined, config))  # stages in which the same learns share what is traced
    return [
        plan_stage(
            stage,
            imagined(stage.train.rules, stage.train.precision),
            machine,
            each,
            measured=data is not None,
            picture=picture,
        )
        for stage, each in zip(recipe.stages, kinds, strict=True)
    ]


def estimated(recipe: Recipe, stage: Stage, places: int) -> tuple[RowKind, ...]:
    """What the recipe itself knows of its rows, whose pictures take so many places each."""
    kinds = tuple(replace(kind, places=places) for source in stage.rows for kind in source.kinds)
    if not kinds:
        what = f"nothing is known of the rows of stage {stage.name}"
        raise UsageError(what, where=recipe.name, todo="give --data with the rows")
    return kinds


def plan_stage(
    stage: Stage,
    imagined: Imagined,
    machine: Machine,
    kinds: tuple[RowKind, ...],
    *,
    measured: bool,
    picture: tuple[int, int] | None,
) -> StagePlan:
    """Plan one stage."""
    rows = sum(kind.rows for kind in kinds)
    once = work_of_kinds(kinds)
    steps = stage.train.steps_for(rows, once.tokens)
    work = once * (steps * stage.train.share_of_step(rows, once.tokens))
    flops = cost_of(imagined.model).flops(work)
    memory = memory_of(imagined, stage.train, kinds, machine)
    fits = memory[machine.ways[0]].total <= machine.room
    return StagePlan(
        name=stage.name,
        table=tuple(imagined.learns.lines()),
        parameters=imagined.parameters,
        learning=imagined.learning,
        kinds=kinds,
        measured=measured,
        picture=picture,
        rows=rows,
        steps=steps,
        work=work,
        flops=flops,
        hours=flops.needed / (machine.gpus * machine.tflops * 1e12 * machine.mfu) / 3600,
        memory=memory,
        fits=fits,
        remedies=() if fits else tuple(remedies(imagined, stage.train, kinds, machine)),
        model_bytes=imagined.parameters * imagined.dtype.itemsize,
        checkpoint_bytes=imagined.checkpoint_bytes,
    )


def memory_of(
    imagined: Imagined, config: TrainConfig, kinds: Sequence[RowKind], machine: Machine
) -> dict[Sharding, Memory]:
    """Memory of one GPU, for each way in which the model can lie on them."""
    room = most_rows = config.pack_tokens
    if config.batch_rows is not None:
        most_rows = math.ceil(config.batch_rows / machine.gpus)
    else:  # a GPU's share of the step, which is one row at least
        assert config.batch_tokens is not None
        longest = math.ceil(max(kind.length for kind in kinds))
        room = min(room, max(longest, math.ceil(config.batch_tokens / machine.gpus)))
    pack = largest_pack(kinds, room, most_rows)
    return {way: imagined.memory(pack, way, machine.gpus) for way in machine.ways}


def largest_pack(kinds: Sequence[RowKind], pack_tokens: int, most_rows: int) -> PackShape:
    """A full pack of rows of mean length, with as many pictures and learned tokens as one of any kind has."""
    lengths = {kind: min(kind.length, pack_tokens) for kind in kinds}

    def most(kind: RowKind) -> float:
        return min(most_rows, max(1.0, pack_tokens // lengths[kind]))

    learned = max(math.ceil(most(kind) * min(kind.learned, lengths[kind])) for kind in kinds)
    total = sum(kind.rows for kind in kinds)
    mean = max(1, round(sum(lengths[kind] * kind.rows for kind in kinds) / total))
    count = min(most_rows, max(1, pack_tokens // mean))
    rest = min(mean, pack_tokens - count * mean) if count < most_rows else 0
    documents = (mean,) * count + ((rest,) if rest else ())
    room = sum(documents)
    shown = max(kinds, key=lambda kind: most(kind) * kind.images * kind.picture)
    places = min(room, math.ceil(shown.picture))
    images = min(math.ceil(most(shown) * shown.images), room // places if places else 0)
    return PackShape(documents, min(learned, room), images, places)


def remedies(
    imagined: Imagined, config: TrainConfig, kinds: Sequence[RowKind], machine: Machine
) -> list[str]:
    """What would make it fit, each alone: smaller packs, more GPUs."""
    found = []
    for pack_tokens in (config.pack_tokens // 2, config.pack_tokens // 4):
        smaller = memory_of(imagined, replace(config, pack_tokens=max(1, pack_tokens)), kinds, machine)
        if smaller[machine.ways[0]].total <= machine.room:
            found.append(f"packs of {pack_tokens:,} tokens (pack_tokens), if no row is longer")
            break
    gpus = machine.gpus * 2
    while gpus <= MOST_GPUS:
        if memory_of(imagined, config, kinds, replace(machine, gpus=gpus))["fsdp"].total <= machine.room:
            found.append(f"{gpus} GPUs")
            break
        gpus *= 2
    return found or ["a smaller language model, or fewer parts that learn"]


def lines(recipe: Recipe, plans: Sequence[StagePlan], machine: Machine) -> list[str]:
    """The plan for people."""
    head = (
        f"{recipe.name} on {machine.gpus} GPU{'s' if machine.gpus > 1 else ''} of {machine.memory:g} GiB, "
        f"at {machine.mfu:.0%} of {machine.tflops:g} TFLOP/s each"
    )
    disk = sum(p.model_bytes for p in plans) + max(2 * p.checkpoint_bytes for p in plans)
    return [
        head,
        *(line for p in plans for line in ("", *stage_lines(p, machine))),
        "",
        f"all stages: {sum(p.hours for p in plans):,.1f} h, {sum(p.flops.needed for p in plans):.2e} FLOP, "
        f"{disk / 1e9:,.0f} GB of disk at most",
    ]


def stage_lines(p: StagePlan, machine: Machine) -> list[str]:
    """One stage for people."""
    names = [*Memory.__dataclass_fields__, "total"]
    found = [
        f"{p.name}: {p.rows:,} rows, {p.steps:,} steps, {p.work.tokens:,.0f} tokens "
        f"({p.work.learned:,.0f} learned), {p.work.images:,.0f} pictures",
        f"  lengths of rows: {'measured on a sample' if p.measured else 'estimates of the recipe'}"
        f"{'' if p.picture is None else '; every picture {} x {} pixels'.format(*p.picture)}",
        *(f"  {line}" for line in p.table),
        "  GiB a GPU " + " ".join(f"{name:>11}" for name in names),
    ]
    for way, memory in p.memory.items():
        numbers = " ".join(f"{getattr(memory, name) / GIB:>11.1f}" for name in names)
        found.append(f"  {way:<9} {numbers}")
    way = machine.ways[0]
    verdict = "fits" if p.fits else "does NOT fit"
    found.append(f"  {verdict} ({way}): {p.memory[way].total / GIB:.1f} of {machine.room / GIB:.1f} GiB")
    found += [f"  would fit: {remedy}" for remedy in p.remedies]
    return [
        *found,
        f"  {p.flops.needed:.2e} FLOP ({p.flops.performed:.2e} performed), {p.hours:,.1f} h",
        f"  disk: model {p.model_bytes / 1e9:,.1f} GB, each checkpoint {p.checkpoint_bytes / 1e9:,.1f} GB",
    ]


def as_data(recipe: Recipe, plans: Sequence[StagePlan], machine: Machine) -> dict[str, Any]:
    """The plan for programs; bytes, operations, hours."""
    return {
        "recipe": recipe.name,
        "machine": vars(machine),
        "stages": [
            vars(p)
            | {"kinds": [vars(kind) for kind in p.kinds], "work": vars(p.work), "flops": vars(p.flops)}
            | {"memory": {way: vars(m) | {"total": m.total} for way, m in p.memory.items()}}
            for p in plans
        ],
    }
