"""A question to a judge as a request of the caption engine: keyed, booked, paid for once (invariants 1 to 3).

A case is words, with or without a picture. It takes an image's place in a dataset of its own below
DATASET/judgements/, so that ledger, budget, retries and resume are those of every captioning run. An answer
that is none is a named failure; it must never be taken for a verdict.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from sharecap.artifact import key_of
from sharecap.captions.captioner import ANYWHERE, Answer, Place, Request, Sampling
from sharecap.captions.gates import FAILURES, GATES
from sharecap.captions.layer import read_layer, read_missing
from sharecap.captions.price import price_of, undated
from sharecap.captions.prompts import Prompt
from sharecap.captions.run import run
from sharecap.captions.run_report import RunReport
from sharecap.captions.teachers.batch import BatchTeacher
from sharecap.captions.teachers.endpoint import Endpoint
from sharecap.captions.teachers.open import open_teacher
from sharecap.errors import UsageError
from sharecap.images.catalog import publish, written
from sharecap.images.dataset import JUDGEMENTS, disk_errors, held, layer_path
from sharecap.images.progress import Progress
from sharecap.quality.wording import DIGEST, REPHRASE
from sharecap.records import NO_IMAGE, Image

UNREADABLE = "unreadable"
"""Kind of failure of an answer that arrived and is not of the form that was asked for."""

WORDS_ONLY = "TEXT"
"""Format of what stands in an image's place where no picture is sent."""

ACCEPTED = tuple(gate for gate in GATES if gate != FAILURES)
"""The gates that look for captions which are too much alike stop nothing: verdicts are. Half of all answers
lost does stop it."""

Read = TypeVar("Read")


@dataclass(frozen=True)
class Case:
    """One question. Cases of the same image, prompt and picture are the same, and asked once."""

    prompt: str
    image_id: str  # the image that it is about
    picture: Image | None = None  # what is sent beside the words

    @cached_property
    def id(self) -> str:
        """Digest of all that is sent, and of whom it is about."""
        return hashlib.sha256(self._text.encode()).hexdigest()

    @property
    def _text(self) -> str:
        said = {"image_id": self.image_id, "prompt": self.prompt, "picture": self.picture is not None}
        return json.dumps(said)

    def as_image(self, kind: str) -> Image:
        """What stands in an image's place; its source is the kind of question."""
        if self.picture is not None:
            return replace(self.picture, id=self.id, source=kind, alt_text=self._text)
        text = self._text
        return Image(self.id, kind, self.image_id, 1, 1, WORDS_ONLY, len(text), "0" * 16, alt_text=text)


class Judge:
    """A captioner whose endpoint is put cases: words alone, or with the picture that the case is about."""

    preparation = f"judge 1: the case's own words; {Endpoint.preparation}"

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self.name, self.fingerprint = endpoint.name, endpoint.fingerprint
        self.concurrency = endpoint.concurrency

    async def answer(self, request: Request, place: Place = ANYWHERE) -> Answer:
        """One case, one answer."""
        if request.image.format == WORDS_ONLY:
            return await self._endpoint.answer(replace(request, image=NO_IMAGE), place)
        picture = replace(request.image, id=json.loads(request.image.alt_text)["image_id"], alt_text="")
        return await self._endpoint.answer(replace(request, image=picture), place)

    async def close(self) -> None:
        """Close the connections."""
        await self._endpoint.close()


@dataclass(frozen=True)
class Sheet:
    """The prompts of cases: each has its own."""

    name: str
    version = "1"
    digest = DIGEST
    language = ""
    reads = False

    def check(self, images: Iterable[Image]) -> None:
        """Every case has a prompt."""

    def render(self, image: Image, words: str = "") -> Prompt:  # noqa: ARG002 - nothing is read in pictures
        """The case's words."""
        text = json.loads(image.alt_text)["prompt"]
        return Prompt(f"{self.name}@{self.version}/{image.source}", text, f"{text}\n{REPHRASE}")

    def of_source(self, source: str) -> Prompt | None:  # noqa: ARG002
        """No two cases need have the same prompt."""
        return None


@dataclass
class Bench:
    """A judge, and the money and manner of asking it, over all the stages of one judgement."""

    dataset: Path
    spec: str
    budget_usd: float | None = None
    prices: Sequence[str] = ()  # "[MODEL=]IN,OUT", before the table's
    concurrency: int | None = None
    temperature: float | None = None  # None: the server's own; some judges take no other
    retry_failed: bool = False
    quiet: bool = True
    reports: list[RunReport] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.name = self._open().name
        self.price = price_of(self.name, self.prices)

    def _open(self) -> Endpoint:
        endpoint = open_teacher(self.spec)
        if not isinstance(endpoint, Endpoint) or isinstance(endpoint, BatchTeacher):
            todo = "give http(s)://…/v1#MODEL or openai:MODEL"
            raise UsageError("only an endpoint can judge", where=self.spec, todo=todo)
        return endpoint

    def refuse_captioners(self, names: Iterable[str]) -> None:
        """`UsageError` if one of these models is the judge: who wrote a caption is blind to its faults."""
        mine = undated(self.name).lower()
        if any(undated(name).lower() == mine for name in names):
            todo = "give another model with --judge"
            raise UsageError("a model can't judge its own captions", where=self.name, todo=todo)

    @property
    def spent_usd(self) -> float:
        """What all stages so far cost, at worst case where that isn't known."""
        return sum((one.cost_usd or 0.0) + (one.doubtful_usd or 0.0) for one in self.reports)

    def ask(self, name: str, kind: str, cases: Sequence[Case], max_tokens: int) -> "Answers":
        """Have every case answered, under the judgement called `name`; what came of each.

        Stopped or killed, the same call goes on and pays nothing twice. Raises what `run` raises.
        """
        unique = {case.id: case for case in cases}
        if not unique:
            return Answers({}, {})
        endpoint = self._open()
        sampling = Sampling(max_tokens=max_tokens, temperature=self.temperature)
        # Another judge, wording or sampling is another judgement, and leaves this one's answers as they are.
        how = key_of("judgement", [endpoint.fingerprint, DIGEST, sampling], {})[:12]
        place = self.dataset / JUDGEMENTS / f"{layer_path(self.dataset, name).name}.{kind}.{how}"
        with disk_errors(place):
            place.mkdir(parents=True, exist_ok=True)
            with held(place):
                publish(written(place, (case.as_image(kind) for case in unique.values())))
        left = None if self.budget_usd is None else max(0.0, self.budget_usd - self.spent_usd)
        report = run(
            place,
            Judge(endpoint),
            Sheet("judge"),
            kind,
            concurrency=self.concurrency,
            budget_usd=left,
            price=self.price,
            sampling=sampling,
            accept=ACCEPTED,
            retry_failed=self.retry_failed,
            progress=Progress(f"{kind}: judged", quiet=self.quiet),
        )
        self.reports.append(report)
        return Answers(
            {answer.image_id: answer.text for answer in read_layer(place, kind)},
            {missing.image_id: missing.kind for missing in read_missing(place, kind)},
        )


@dataclass(frozen=True)
class Answers:
    """What came of some cases, by their ids."""

    texts: dict[str, str]
    failures: dict[str, str]  # kind of failure

    def read(self, case: Case, reader: Callable[[str], Read | None]) -> tuple[Read | None, str, str]:
        """(what `reader` makes of the answer, kind of failure, raw answer); one of the first two is empty."""
        raw = self.texts.get(case.id)
        if raw is None:
            return None, self.failures[case.id], ""
        found = reader(raw)
        return found, "" if found is not None else UNREADABLE, raw
