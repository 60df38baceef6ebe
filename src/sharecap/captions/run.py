"""The captioning run: every image becomes a caption or a counted, named failure (paper, 3.1 and 3.2).

`run` surveys what the ledger already has, sends the rest with bounded concurrency under the budget, and seals
the layer. It may be killed at any moment: what was answered is kept, what was in flight is counted.
"""

import asyncio
import gc
import random
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from types import MappingProxyType

from sharecap import artifact
from sharecap.captions.batches import DEFAULT_RULES, BatchRules, batch_engine
from sharecap.captions.canary import ASKED, BLIND, Canary, blank_image, canary_id, is_worth_it
from sharecap.captions.captioner import DEFAULT_SAMPLING, Captioner, Sampling
from sharecap.captions.courier import DEFAULT_PATIENCE, Courier, Patience
from sharecap.captions.gates import CANARY, DEFAULT_THRESHOLDS, Gates, Thresholds
from sharecap.captions.language_guess import code_of
from sharecap.captions.layer import KIND, Missing, open_layer, refuse_other_layer, seal
from sharecap.captions.ledger import IN_BATCH, Entry, Ledger
from sharecap.captions.outbox import Engine
from sharecap.captions.pace import AHEAD, Pace
from sharecap.captions.plan import PIECE, Job, Plan, Survey, Trail, survey
from sharecap.captions.price import IMAGE_TOKENS, Budget, Price
from sharecap.captions.prompts import Asking, load_pack
from sharecap.captions.run_report import RunReport, report_of
from sharecap.captions.running import Running, noted
from sharecap.captions.teachers.batch import BatchTeacher
from sharecap.captions.teachers.open import open_teacher
from sharecap.captions.verdict import KINDS
from sharecap.errors import Interrupted, SharecapError, Stopped, UsageError
from sharecap.images.catalog import Catalog
from sharecap.images.dataset import LEDGER, disk_errors, held, layer_path
from sharecap.images.place import place_of
from sharecap.images.progress import Progress
from sharecap.records import Caption, Image, Usage


def plan(
    dataset: Path,
    teacher: Captioner | str,
    pack: Asking | str | Path,
    *,
    sampling: Sampling = DEFAULT_SAMPLING,
    image_tokens: int = IMAGE_TOKENS,
    retry_failed: bool = False,
) -> Plan:
    """Check dataset, teacher and prompts, so that nothing starts that can't end."""
    catalog = Catalog.open(dataset)
    pack = load_pack(pack) if isinstance(pack, str | Path) else pack
    pack.check(catalog)
    captioner = open_teacher(teacher) if isinstance(teacher, str) else teacher
    found = Plan(catalog, captioner, pack, sampling, image_tokens, retry_failed)
    if not pack.reads:
        return found
    from sharecap.images.words import Words

    return replace(found, words=Words.open(catalog))


def run(
    dataset: Path,
    teacher: Captioner | str,
    pack: Asking | str | Path,
    layer: str,
    *,
    concurrency: int | None = None,
    budget_usd: float | None = None,
    price: Price | None = None,
    sampling: Sampling = DEFAULT_SAMPLING,
    image_tokens: int = IMAGE_TOKENS,
    patience: Patience = DEFAULT_PATIENCE,
    thresholds: Thresholds = DEFAULT_THRESHOLDS,
    accept: Iterable[str] = (),
    second_teacher: Captioner | str | None = None,
    second_price: Price | None = None,
    source_budgets: Mapping[str, float] = MappingProxyType({}),
    only: int | None = None,
    retry_failed: bool = False,
    progress: Progress | None = None,
    rng: random.Random | None = None,
    batch: BatchRules = DEFAULT_RULES,
    engine: Engine | None = None,
) -> RunReport:
    """Caption every image of `dataset` into the sealed layer `layer`; a sealed one is only reported.

    `concurrency` is how many requests are out at a time, the captioner's own choice if None; `budget_usd`
    bounds what the layer may cost over all runs; `image_tokens` is the most prompt tokens that one image can
    take; `batch` is for a teacher behind a Batch API; `engine` has requests answered elsewhere than in this
    process (`cluster.py`). `accept` names gates that stop nothing; `second_teacher` is asked what the first
    refuses, always by this process; `source_budgets` bound the cost of single sources. `only` stops when so
    many images are settled, taken from all over the catalog, and seals nothing. Raises `Stopped` at the
    budget or a gate, `Interrupted` on Ctrl-C, `SharecapError` when the teacher or the disk fails; the same
    call then goes on.
    """
    if concurrency is not None and concurrency < 1:
        raise UsageError("concurrency must be at least 1", where=concurrency)
    layer_path(dataset, layer)
    second = open_teacher(second_teacher) if isinstance(second_teacher, str) else second_teacher
    if isinstance(second, BatchTeacher):
        todo = "leave out batch: in --second-teacher"
        raise UsageError("a batch API can't be the second teacher", where=second.name, todo=todo)
    budget = Budget(
        price,
        budget_usd,
        second_price=second_price,
        has_second=second is not None,
        source_limits=source_budgets,
    )
    wanted = plan(
        dataset,
        teacher,
        pack,
        sampling=sampling,
        image_tokens=image_tokens,
        retry_failed=retry_failed,
    )
    _refuse_strangers(wanted.catalog, source_budgets)
    at_once = concurrency or wanted.captioner.concurrency
    if isinstance(wanted.captioner, BatchTeacher):
        engine = batch_engine(wanted.captioner, batch, price)
        price = budget.price = batch.price(price)
    gates = Gates(thresholds, frozenset(accept), code_of(wanted.pack.language))
    tag = artifact.key_of(KIND, wanted.config(), {})[:16]
    refuse_other_layer(dataset, layer, wanted.config())
    if found := finished(wanted, layer):
        return found
    progress = progress or Progress("captioned", quiet=True)
    clock = time.monotonic()
    with disk_errors(dataset), held(dataset), Ledger(dataset / LEDGER) as ledger:
        if CANARY in gates.accepted:
            asyncio.run(ledger.reinstate(BLIND))
        trail = Trail(thresholds.baseline)
        before = survey(
            wanted,
            partial(ledger.look_up, texts=False),
            ledger.plainly_done,
            price=price,
            trail=trail,
        )
        canary_usd, _ = ledger.spent_on(canary_id(tag))
        budget.spent_before(before.usd_by_source, before.cost_usd + before.doubtful_usd + canary_usd)
        if before.open:
            _rebuild(gates, trail, ledger)
        progress.total, progress.done = before.images, before.images - before.open
        progress.failed = before.images - before.open - before.done
        settled = before.images - before.open
        asked = before if only is None else before.spread(max(0, only - settled))
        sings = CANARY not in gates.accepted and _is_worth_a_canary(before, asked, in_this_process=not engine)
        about = Running(
            layer=layer,
            captioner=wanted.captioner.name,
            prompts=f"{wanted.pack.name}@{wanted.pack.version}/",
            images=before.images,
            settled=settled,
            budget_usd=budget_usd,
            started=time.time(),
        )
        with noted(dataset, about), progress.shown():
            requests = drive(
                lambda courier: (engine or _workers(at_once))(courier, wanted, asked),
                lambda: Courier(
                    captioner=wanted.captioner,
                    ledger=ledger,
                    budget=budget,
                    sampling=sampling,
                    patience=patience,
                    gates=gates,
                    second=second,
                    canary=Canary(tag, ledger, sampling, blank=blank_image(), others=_others(wanted, asked))
                    if sings
                    else None,
                    look_back=bool(before.failures),
                    progress=progress,
                    rng=rng or random.Random(),
                    disk=dataset,
                    pace=Pace(at_once, time.monotonic),
                    margin_bytes=at_once * 65_536 + 1_048_576,
                ),
            )
        after = Survey(price=price)  # counted while the layer is written

        def report() -> RunReport:
            return report_of(
                wanted,
                layer,
                before=before,
                after=after,
                in_flight=ledger.in_flight,
                requests=requests,
                price=price,
                canary=ledger.spent_on(canary_id(tag)),
                seconds=time.monotonic() - clock,
            )

        if only is not None:
            after = survey(wanted, ledger.look_up, lambda keys: [None] * len(keys), price=price)
        else:
            _seal(wanted, layer, ledger, after, report)
        return report()


def _refuse_strangers(catalog: Catalog, source_budgets: Mapping[str, float]) -> None:
    """`UsageError` for a budget of a source that no image has: a misspelt wall would hold nothing."""
    if source_budgets:
        known = {image.source for image in catalog}
        if strangers := sorted(set(source_budgets) - known):
            todo = f"the sources are {', '.join(sorted(known)[:20])}"
            raise UsageError("a budget for a source that no image has", where=strangers[0], todo=todo)


def _rebuild(gates: Gates, trail: Trail, ledger: Ledger) -> None:
    """Let the gates see what earlier runs got, so that no kill lets a run slip by; stop if one is closed."""
    settled = iter(trail)
    while piece := list(islice(settled, PIECE)):
        entries = ledger.look_up([key for _, key in piece])
        for source, key in piece:
            entry = entries[key]
            if entry.state == "done":
                gates.remember(source, None, entry.text or "")
            elif entry.error_kind in KINDS:
                gates.remember(source, entry.error_kind, entry.text or entry.error or "")
    if why := gates.closed():
        raise why


def _is_worth_a_canary(before: Survey, asked: Survey, *, in_this_process: bool) -> bool:
    """Elsewhere the start's probes have no captions yet; and answers may come that were asked for before."""
    if in_this_process:
        return is_worth_it(asked.open)
    return is_worth_it(max(asked.open, before.unsettled), asked=ASKED + 1)


def _others(wanted: Plan, found: Survey) -> Callable[[Image], Image | None]:
    """Finds a picture that is not the given one, among a few of those that are to be captioned."""
    few: list[Image] = []

    def other(image: Image) -> Image | None:
        if not few:
            few.extend(wanted.catalog.chosen(found.spread(8).open_at))
        few.append(few.pop(0))
        return next((candidate for candidate in few if candidate.id != image.id), None)

    return other


def finished(wanted: Plan, layer: str) -> RunReport | None:
    """The report of the sealed layer, if it is sealed for just this plan; None otherwise."""
    directory = layer_path(wanted.catalog.dataset, layer)
    if wanted.retry_failed or not (directory / artifact.MANIFEST).exists():
        return None
    sealed = open_layer(wanted.catalog.dataset, layer)
    if sealed.key != artifact.key_of(KIND, wanted.config(), wanted.inputs()):
        return None  # the catalog has grown: only what is new will be asked
    kept = {"requests": 0, "kept": sealed.metrics["images"], "in_flight": 0, "in_flight_usd": None}
    return RunReport(**{**sealed.metrics, **kept, "layer": layer, "path": str(directory), "seconds": 0.0})


def _workers(at_once: int) -> Engine:
    """The engine of a captioner that this process asks itself: so many requests at a time."""

    async def engine(courier: Courier, wanted: Plan, asked: Survey) -> None:
        jobs = wanted.open_jobs(asked)
        # The pace lets no more than `at_once` out; the few beyond are ready when one of these is back.
        workers = [asyncio.create_task(courier.work(jobs)) for _ in range(at_once + at_once // AHEAD)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    return engine


def drive(engine: Callable[[Courier], Awaitable[None]], make_courier: Callable[[], Courier]) -> int:
    """Run the engine to its end; the number of requests sent. Raises what stopped it."""

    async def main() -> int:
        courier = make_courier()
        gc.freeze()  # what was imported stays: no collection has to look through it, nor the exit
        with _interrupts(courier):
            try:
                await engine(courier)
                await courier.booked()
            finally:
                await courier.captioner.close()
                if courier.second:
                    await courier.second.close()
        if why := courier.ended():
            raise why
        return courier.requests

    try:
        return asyncio.run(main())
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise _interrupted() from None


@contextmanager
def _interrupts(courier: Courier) -> Iterator[None]:
    """First Ctrl-C: send nothing more, take in what is on its way. Second: leave at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def on_signal() -> None:
        if courier.stopping:
            task.cancel()
        courier.stop(_interrupted())
        courier.progress.note = "stopping: waiting for answers on their way, Ctrl-C again to leave them"
        courier.progress.tick(force=True)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def _interrupted() -> Interrupted:
    return Interrupted("interrupted; every answer so far is kept", todo="run the same command again to go on")


def _seal(wanted: Plan, layer: str, ledger: Ledger, after: Survey, report: Callable[[], RunReport]) -> None:
    def rows() -> Iterator[Caption | Missing]:
        for jobs in wanted.jobs():
            entries = ledger.look_up([job.key for job in jobs])
            for job in jobs:
                entry = entries.get(job.key)
                after.count(wanted, job, entry)
                if entry and entry.error_kind == IN_BATCH:
                    what = "requests are still out in batches, so the layer can't be sealed"
                    todo = "take in their answers: run again with --teacher batch:..."
                    raise Stopped(what, where=layer, todo=todo)
                if entry is None or entry.state == "sent":
                    what = f"no outcome for {place_of(job.image)}, so the layer can't be sealed"
                    raise SharecapError(what, where=layer, todo="run the same command again")
                yield _row(job, entry, layer, wanted.captioner.name)
        assert after.images == len(wanted.catalog)

    def metrics() -> dict[str, object]:
        facts = artifact.plain(report())
        return {k: v for k, v in facts.items() if k not in ("layer", "path")}

    if wanted.retry_failed:
        _unseal(wanted, layer)
    seal(wanted.catalog.dataset, layer, wanted.config(), wanted.inputs(), rows=rows(), metrics=metrics)


def _unseal(wanted: Plan, layer: str) -> None:
    """Let the layer be made anew from the ledger, with what was asked again."""
    manifest = layer_path(wanted.catalog.dataset, layer) / artifact.MANIFEST
    if manifest.exists():
        key = artifact.key_of(KIND, wanted.config(), wanted.inputs())
        mark = f'{{"kind": "{KIND}", "key": "{key}", "seconds": 0.0}}'
        artifact.write_atomically(manifest.with_name(artifact.STARTED), mark)
        manifest.unlink()


def _row(job: Job, entry: Entry, layer: str, captioner: str) -> Caption | Missing:
    if entry.state != "done":
        return Missing(job.image.id, entry.error_kind or "error", entry.error or "")
    return Caption(
        image_id=job.image.id,
        layer=layer,
        text=entry.text or "",
        captioner=entry.answered_by or captioner,
        prompt_id=entry.asked_as or job.prompt.id,
        finish_reason=entry.finish_reason or "",
        usage=Usage(entry.prompt_tokens, entry.completion_tokens),
        cost_usd=entry.cost_usd,
        flags=tuple((entry.steps or "").split()),
    )
