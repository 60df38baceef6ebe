"""Gates: what the captions of a source look like together, while they come in. Silent garbage stops the run.

Fed with every outcome, per source, in constant memory. Shares are over the current stretch of outcomes: what
begins late is not drowned by what was good before. A gate must never change, repair or drop a caption.
"""

import hashlib
import math
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from sharecap.captions.language_guess import language_of
from sharecap.captions.verdict import words_of
from sharecap.errors import Stopped, UsageError

FAILURES, REFUSALS, TRUNCATIONS = "failures", "refusals", "truncations"
DUPLICATES, OPENING, BOILERPLATE = "duplicates", "opening", "boilerplate"
LENGTH, LANGUAGE, CANARY = "length", "language", "canary"
GATES = (FAILURES, REFUSALS, TRUNCATIONS, DUPLICATES, OPENING, BOILERPLATE, LENGTH, LANGUAGE, CANARY)
"""Names that `--accept` takes. The canary has its own file."""


@dataclass(frozen=True)
class Thresholds:
    """When a gate closes. Shares are of one source's outcomes (or captions) in the current stretch."""

    failures: float = 0.5  # outcomes of the last `failures_window`, all sources, that are no captions
    failures_after: int = 20  # outcomes before that is looked at
    failures_window: int = 100  # outcomes
    refusals: float = 0.2  # outcomes that end refused or filtered, remedies included
    truncations: float = 0.15  # outcomes that end cut at the token limit
    duplicates: float = 0.1  # captions whose words an earlier caption of the source had
    opening: float = 0.3  # captions that begin with the same `opening_words`
    opening_words: int = 8
    boilerplate: float = 0.4  # captions with the same run of `boilerplate_words` words beyond their opening
    boilerplate_words: int = 8
    shorter: float = 0.5  # mean length against the first `baseline` captions of the source
    longer: float = 2.0
    language: float = 0.1  # captions of which a language can be told, and it is not the expected one
    baseline: int = 200  # first captions of a source that lengths and the language are compared with
    fewest: int = 100  # outcomes (or captions) of a source in the stretch before any gate looks
    stretch: int = 2_000  # outcomes of a source after which shares are counted anew


DEFAULT_THRESHOLDS = Thresholds()

SOURCES = 64
"""Sources that are watched each on its own; further ones are watched together, so that memory is bounded."""

REST = "(all other sources)"
SEEN_BITS = 2**25
"""Size of the filter that remembers captions: 4 MiB; at 3 million captions it errs for one in a hundred."""

NGRAMS = 4_096
"""Runs of words that are counted at a time, per source."""

LOOK_EVERY = 10
"""Outcomes of a source between two looks at its shares."""

EVERY = 8
"""After the first `baseline` captions of a stretch, runs of words are counted in every so-manieth caption."""


@dataclass
class _Frequent:
    """The frequent ones of a stream of keys, in bounded memory: the rare ones are forgotten."""

    most: int
    counts: Counter[str] = field(default_factory=Counter)
    first: str = ""  # the most frequent one

    def add(self, keys: Iterable[str]) -> None:
        once = dict.fromkeys(keys)
        self.counts.update(once.keys())
        for key in once:
            if self.counts[key] > self.counts[self.first]:
                self.first = key
        floor = 1
        while len(self.counts) > self.most:
            self.counts = Counter({key: n for key, n in self.counts.items() if n > floor})
            floor *= 2
        if self.first not in self.counts:
            self.first = ""

    def top(self) -> tuple[str, int]:
        return self.first, self.counts[self.first]


@dataclass
class _Source:
    """What is known of one source's stretch, and of its first captions."""

    outcomes: int = 0
    captions: int = 0
    refusals: int = 0
    truncations: int = 0
    duplicates: int = 0
    characters: int = 0
    told: int = 0  # captions whose language could be told
    foreign: int = 0  # of these, in another than the expected one
    read: int = 0  # captions whose runs of words were counted
    openings: _Frequent = field(default_factory=lambda: _Frequent(512))
    runs: _Frequent = field(default_factory=lambda: _Frequent(NGRAMS))
    examples: dict[str, str] = field(default_factory=dict)  # gate -> words that show it
    first_captions: int = 0
    first_characters: int = 0
    first_languages: Counter[str] = field(default_factory=Counter)

    def next_stretch(self) -> "_Source":
        """Counts begin anew; the first captions stay known."""
        return _Source(
            first_captions=self.first_captions,
            first_characters=self.first_characters,
            first_languages=self.first_languages,
        )


class Gates:
    """One per run. `saw` every outcome; it returns what stops the run, or None."""

    def __init__(
        self,
        thresholds: Thresholds = DEFAULT_THRESHOLDS,
        accepted: frozenset[str] = frozenset(),
        language: str = "",
    ) -> None:
        unknown = sorted(accepted - set(GATES))
        if unknown:
            raise UsageError("no such gate", where=unknown[0], todo=f"the gates are {', '.join(GATES)}")
        self.thresholds, self.accepted, self._language = thresholds, accepted, language
        self._sources: dict[str, _Source] = {}
        self._seen = bytearray(SEEN_BITS // 8)
        self._recent: deque[bool] = deque(maxlen=thresholds.failures_window)
        self._kinds: Counter[str] = Counter()
        self._judged = 0

    def saw(self, source: str, kind: str | None, text: str, where: object = "") -> Stopped | None:
        """Count an outcome: a caption's `text`, or the words of a failure of this `kind`."""
        name, of = self._count(source, kind, text)
        why = self._mostly_garbage(kind, text, where)
        return why or (self._closed(name, of) if of.outcomes % LOOK_EVERY == 0 else None)

    def remember(self, source: str, kind: str | None, text: str) -> None:
        """Take in an outcome of an earlier run, whose own failures are not held against this one."""
        self._count(source, kind, text)

    def closed(self) -> Stopped | None:
        """What stops a run before it sends anything, from what was remembered."""
        return next((why for name, of in self._sources.items() if (why := self._closed(name, of))), None)

    def _count(self, source: str, kind: str | None, text: str) -> tuple[str, _Source]:
        if source not in self._sources and len(self._sources) >= SOURCES:
            source = REST
        of = self._sources.get(source)
        if of is None or of.outcomes >= self.thresholds.stretch:
            of = self._sources[source] = of.next_stretch() if of else _Source()
        of.outcomes += 1
        if kind is None:
            self._caption(source, of, text)
        elif kind in ("refusal", "content_filter"):
            of.refusals += 1
            of.examples[REFUSALS] = text
        elif kind == "truncated":
            of.truncations += 1
            of.examples[TRUNCATIONS] = text
        return source, of

    def _caption(self, source: str, of: _Source, text: str) -> None:
        limits = self.thresholds
        words = words_of(text)
        of.captions += 1
        of.characters += len(text)
        if self._was_seen(source, " ".join(words)):
            of.duplicates += 1
            of.examples[DUPLICATES] = text
        language = language_of(text)
        if of.first_captions < limits.baseline:
            of.first_captions += 1
            of.first_characters += len(text)
            of.first_languages[language] += bool(language)
        if language:
            of.told += 1
            expected = self._expected(of)
            if expected and language != expected:
                of.foreign += 1
                of.examples[LANGUAGE] = text
        size = limits.opening_words
        if len(words) >= size:
            of.openings.add([" ".join(words[:size])])
        if of.captions <= limits.baseline or of.captions % EVERY == 0:
            of.read += 1
            size = limits.boilerplate_words
            rest = words[1:]  # the run at the very start is the opening's business
            of.runs.add(" ".join(rest[i : i + size]) for i in range(len(rest) - size + 1))

    def _expected(self, of: _Source) -> str:
        if self._language:
            return self._language
        if of.first_captions < min(self.thresholds.baseline, self.thresholds.fewest):
            return ""
        return of.first_languages.most_common(1)[0][0] if of.first_languages else ""

    def _was_seen(self, source: str, words: str) -> bool:
        digest = hashlib.blake2b(f"{source}\0{words}".encode(), digest_size=12).digest()
        known = True
        for i in (0, 4, 8):
            byte, bit = divmod(int.from_bytes(digest[i : i + 4], "big") % SEEN_BITS, 8)
            known = known and bool(self._seen[byte] >> bit & 1)
            self._seen[byte] |= 1 << bit
        return known

    def _mostly_garbage(self, kind: str | None, text: str, where: object) -> Stopped | None:
        self._judged += 1
        self._recent.append(kind is not None)
        if kind is None:
            return None
        self._kinds[kind] += 1
        limits, failed = self.thresholds, sum(self._recent)
        if (
            FAILURES in self.accepted
            or self._judged < limits.failures_after
            or failed <= limits.failures * len(self._recent)
        ):
            return None
        kinds = ", ".join(f"{n} {k}" for k, n in self._kinds.most_common())
        what = (
            f"gate failures: {failed} of the last {len(self._recent)} answers are no captions ({kinds}); "
            f"for example {kind} on {where}: {_shown(text)}"
        )
        todo = "mend the prompt or the teacher, then run the same command with --retry-failed"
        return Stopped(what, todo=todo)

    def _closed(self, source: str, of: _Source) -> Stopped | None:
        limits = self.thresholds
        if of.outcomes < limits.fewest:
            return None
        opening, opened = of.openings.top()
        run, ran = of.runs.top()
        looks: list[tuple[str, int, int, float, str, str]] = [
            (REFUSALS, of.refusals, of.outcomes, limits.refusals, "answers are refusals", ""),
            (TRUNCATIONS, of.truncations, of.outcomes, limits.truncations, "answers are cut", ""),
            (DUPLICATES, of.duplicates, of.captions, limits.duplicates, "captions were given before", ""),
            (OPENING, opened, of.captions, limits.opening, "captions begin alike", opening),
            (BOILERPLATE, ran, of.read, limits.boilerplate, "captions hold the same words", run),
            (LANGUAGE, of.foreign, of.told, limits.language, "captions are in another language", ""),
        ]
        for gate, count, total, limit, what, example in looks:
            if gate not in self.accepted and total >= limits.fewest and count > limit * total:
                return _stopped(
                    gate, source, f"{count} of {total} {what}", limit, example or of.examples.get(gate, "")
                )
        return None if LENGTH in self.accepted else self._drifted(source, of)

    def _drifted(self, source: str, of: _Source) -> Stopped | None:
        limits = self.thresholds
        if of.first_captions < limits.baseline or of.captions < limits.fewest or not of.first_characters:
            return None
        ratio = of.characters / of.captions / (of.first_characters / of.first_captions)
        if limits.shorter <= ratio <= limits.longer:
            return None
        mean, first = round(of.characters / of.captions), round(of.first_characters / of.first_captions)
        figure = f"captions have {mean} characters on average, the first {of.first_captions} had {first}"
        return _stopped(LENGTH, source, figure, limits.shorter if ratio < 1 else limits.longer, "")


def _stopped(gate: str, source: str, figure: str, limit: float, example: str) -> Stopped:
    assert math.isfinite(limit)
    shown = f"; for example {_shown(example)}" if example else ""
    what = f"gate {gate}, source {source}: {figure} (limit {limit:g}){shown}"
    todo = (
        f"look at them; --accept {gate} goes on, another prompt or teacher under another --layer begins anew"
    )
    return Stopped(what, todo=todo)


def _shown(text: str) -> str:
    return repr(" ".join(text.split())[:160])
