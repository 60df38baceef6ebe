"""Ten people's answers: how VQAv2, VizWiz and TextVQA normalise a text and what an answer is worth.

Two normalisations and two orders are in use, and they differ by up to twelve points on the same predictions,
so a score always names its rule. The person left out is told by position, never by comparing entries: where
they carry no id, equal ones would all vanish.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_NUMBERS = {
    **{"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4"},
    **{"five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10"},
}
_ARTICLES = ("a", "an", "the")
_PERIODS = 32
"""Periods stripped from one answer: the official code passes re.UNICODE (32) where a count belongs."""
_CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't
    he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've
    must've mustn't needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't
    shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's
    something'd something'd've something'll that's there'd there'd've there're there's they'd they'd've
    they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
    where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're you've
"""
_CONTRACTIONS = {"somebody'd": "somebodyd"} | {
    word[:i] + word[i + 1 :]: word
    for word in _CONTRACTED.split()
    for i, letter in enumerate(word)
    if letter == "'"
}
"""The official table: each word with one apostrophe left out; one entry of it runs the other way."""


def soft_accuracy(matches: Sequence[bool]) -> float:
    """Mean over people left out in turn of min(1, matches among the others / 3)."""
    n, k = len(matches), sum(matches)
    return (k * min(1.0, (k - 1) / 3) + (n - k) * min(1.0, k / 3)) / n if k else 0.0


@lru_cache(maxsize=200_000)
def normalised(text: str) -> str:
    """The m4c/EvalAI form: what LLaVA and ShareGPT4V send to the server, and score TextVQA with."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return _words(_unpunctuated(_one_line(text)))


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _unpunctuated(text: str) -> str:
    # A mark vanishes if it touches a space somewhere, or some number has a comma; else it becomes a space.
    numeric = re.search(r"\d,\d", text) is not None
    kept = text
    for mark in _PUNCTUATION:
        if mark in kept:
            kept = kept.replace(mark, "" if numeric or f"{mark} " in text or f" {mark}" in text else " ")
    return re.sub(r"\.(?!\d)", "", kept, count=_PERIODS)


def _words(text: str) -> str:
    words = [_NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def m4c_accuracy(answer: str, people: Sequence[str]) -> float:
    """Soft accuracy of a normalised answer against normalised people's answers."""
    return soft_accuracy([normalised(person) == answer for person in people])


def official_accuracy(answer: str, people: Sequence[str]) -> float:
    """Soft accuracy as the VQAv2 server computes it: both sides are normalised only where people disagree."""
    answer, others = _one_line(answer), [_one_line(person) for person in people]
    if len(set(others)) > 1:
        answer, others = _official(answer), [_official(person) for person in others]
    return soft_accuracy([person == answer for person in others])


@lru_cache(maxsize=200_000)
def _official(text: str) -> str:
    return _words(_unpunctuated(text))


RULES: Mapping[str, tuple[Callable[[str], str], Callable[[str, Sequence[str]], float]]] = {
    "m4c": (normalised, m4c_accuracy),
    "server": (normalised, official_accuracy),
    "server-raw": (_one_line, official_accuracy),
}
"""m4c: LLaVA's TextVQA script. server: answers normalised, then sent to the VQAv2 server, as the paper did.
server-raw: the server's rule on predictions as they are, i.e. on a file that is ready to send."""
