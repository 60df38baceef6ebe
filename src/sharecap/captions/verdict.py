"""Is this answer a caption? Silent garbage (refusals, loops, echoes of the prompt) is what spoils published
caption sets; here each kind gets a name. Pure functions; a doubtful answer is never repaired, only judged.
"""

import functools
import re
from collections import Counter
from collections.abc import Callable, Sequence

from sharecap.captions.captioner import Answer
from sharecap.captions.prompts import without_words

KINDS = ("content_filter", "refusal", "empty", "loop", "truncated", "boilerplate", "prompt_echo")
"""What an answer can be instead of a caption, in the order in which it is looked for."""

RESAMPLED = frozenset({"empty", "loop", "prompt_echo", "boilerplate"})
"""Kinds that another draw may mend; the others would only cost again."""

_REFUSAL = re.compile(
    r"^\W*(?:(?:i['’]?m|i am|we are)\s+(?:very\s+|so\s+|really\s+)?sorry\b|sorry\b|i apologi[sz]e\b|"
    r"(?:unfortunately\W+)?i(?:['’]m| am)\s+(?:not able|unable)\b|"
    r"(?:unfortunately\W+)?i\s+(?:cannot|can['’]?t|can not|could not|couldn['’]?t|won['’]?t|will not)\s+"
    r"(?:\w+\s+){0,2}(?:help|assist|provide|describe|see|view|identify|comply|process|analy[sz]e|fulfil|do|access"
    r"|caption|create|generate)|"
    r"as an ai\b|(?:the|your) message is empty\b|no image (?:was|has been) (?:provided|attached|uploaded)\b|"
    r"please (?:provide|upload|attach|share) (?:the|an|your) (?:image|picture|photo))",
    re.IGNORECASE,
)
_MARKS = re.compile(
    r"<\|(?:im_start|im_end|user|assistant|system|eot_id)\|?>|\[/?INST\]|<<SYS>>|### (?:Human|Ass)"
)
_ANNOUNCED = re.compile(
    r"\W*(?:(?:sure|certainly|of course|absolutely)\W+)?(?:(?:here(?:['’]s| is| are)|below is|this is)\s+)?"
    r"(?:the|a|an)?\s*(?:\w+\s+){0,3}?(?:description|caption)(?:\s+(?:of|for)\s+(?:the|this|your)\s+"
    r"(?:\w+\s+)?(?:image|picture|photo|photograph))?\W*",
    re.IGNORECASE,
)
_STUCK = re.compile(r"(.{1,80}?)\1{9,}", re.DOTALL)
_WORD, _OTHER = re.compile(r"\w+"), re.compile(r"[^\w\n]+")
_APART = "".join("\n" if c in ".!?\n" else c if _WORD.match(c) else " " for c in map(chr, range(128)))
"""What stands for each of ASCII's characters in `_apart`: a look at a table takes less than any search."""

_UNPARTED = re.compile("[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
"""A letter of Chinese or Japanese."""

_ECHO_WORDS = 8


def verdict(answer: Answer, prompt: str) -> str | None:
    """None for a caption, else one of `KINDS`."""
    text = answer.text.strip()
    if answer.finish_reason == "content_filter":
        return "content_filter"
    if answer.refusal.strip() or _REFUSAL.match(text):
        return "refusal"
    if not _WORD.search(text):
        return "empty"
    if is_loop(text):
        return "loop"
    if answer.finish_reason == "length":
        return "truncated"
    return _hollow(text, prompt)


def _hollow(text: str, prompt: str) -> str | None:
    if is_boilerplate(text):
        return "boilerplate"
    return "prompt_echo" if is_echo(text, prompt) else None


def is_boilerplate(text: str) -> bool:
    """The text holds a chat template's marks, or only announces a description and gives none."""
    return _MARKS.search(text) is not None or _ANNOUNCED.fullmatch(text) is not None


def is_loop(text: str) -> bool:
    """The text goes round in circles: a block of up to 100 words three times running over at least 24 words,
    a sentence of four or more words four times, or characters without words that repeat ten times over 100.
    In Chinese and Japanese, which don't part their words, two characters count as a word.
    """
    if _in_circles(text, words_of(text), _apart, 1):
        return True
    unparted = not text.isascii() and _UNPARTED.search(text) is not None
    if unparted and _in_circles(text, _characters_apart(text).split(), _characters_apart, 2):
        return True
    stuck = _STUCK.search(text) if _pieces_repeat(text) else None
    return stuck is not None and len(stuck.group()) >= 100


def _in_circles(text: str, words: list[str], apart: Callable[[str], str], size: int) -> bool:
    """Whether blocks or sentences come again and again, where so many of `words` are as much as one."""
    # Each search is preceded by a quick look: a good caption is judged in a tenth of a millisecond.
    again = _again(words, 4)
    if again >= 13 and _again(words, 6) >= 11 and _goes_round(words, size):
        return True
    if again < 3:  # a sentence that comes four times brings three
        return False
    sentences = Counter(tuple(s) for s in map(str.split, apart(text).split("\n")) if len(s) >= 4 * size)
    return max(sentences.values(), default=0) >= 4


def _goes_round(words: list[str], size: int) -> bool:
    for period in range(1, min(100 * size, len(words) // 3) + 1):
        run = 0
        for at in range(period, len(words)):
            run = run + 1 if words[at] == words[at - period] else 0
            if run >= 2 * period and run + period >= 24 * size:
                return True
    return False


def _again(words: list[str], size: int) -> int:
    """How many of the runs of so many words were there before: 17 - `size` if any 16 words come again."""
    runs = _runs(words, size)
    return len(runs) - len(set(runs))


def _pieces_repeat(text: str) -> bool:
    """One of some pieces of 30 characters comes again within 80, as in all that is stuck for 100."""
    return any(text.find(text[at : at + 30], at + 1, at + 110) >= 0 for at in range(0, len(text), 60))


def is_echo(text: str, prompt: str) -> bool:
    """The text hands the prompt back: three tenths of its runs of eight words (or all of a shorter prompt,
    from its first word on) are the prompt's.
    """
    prompt = without_words(prompt)
    words, asked = words_of(text), words_of(prompt)
    if len(asked) < _ECHO_WORDS:
        return bool(asked) and words[: len(asked)] == asked
    # Eight words of the prompt hold one of the text's fours, end to end: most captions have none of these.
    fours = _runs_of(prompt, 4)
    if fours.isdisjoint(zip(words[::4], words[1::4], words[2::4], words[3::4], strict=False)):
        return False
    theirs, runs = _runs_of(prompt, _ECHO_WORDS), _runs(words, _ECHO_WORDS)
    return bool(runs) and sum(run in theirs for run in runs) >= 0.3 * len(runs)


def _runs(words: Sequence[str], size: int) -> list[tuple[str, ...]]:
    return list(zip(*(words[n:] for n in range(size)), strict=False))


@functools.lru_cache(maxsize=64)
def _runs_of(prompt: str, size: int) -> frozenset[tuple[str, ...]]:
    return frozenset(_runs(words_of(prompt), size))


@functools.lru_cache(maxsize=64)
def words_of(text: str) -> list[str]:
    """The words in lower case; kept for a while, since a caption is looked at from several sides."""
    return _apart(text).split()


def _apart(text: str) -> str:
    """In lower case, with line ends for what ends a sentence and spaces for all else between words."""
    text = text.lower().translate(_APART)
    return text if text.isascii() else _OTHER.sub(" ", text)


def _characters_apart(text: str) -> str:
    """The same, with each letter of Chinese and Japanese on its own, and their ends of sentences."""
    return _UNPARTED.sub(r" \g<0> ", _apart(re.sub("[。！？｡]", "\n", text)))
