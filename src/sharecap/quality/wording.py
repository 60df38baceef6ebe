"""What a judge is asked, word for word, and how its answers are read. Pure; an answer is never guessed at.

Each question is an instruction, then the texts it is about, one a line between delimiters. What no rule here
can read is None or an error's kind, which is counted; it must never become a verdict.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sharecap.artifact import key_of
from sharecap.captions.prompts import CLOSES, GIVEN_CAVEAT, OPENS, given
from sharecap.captions.verdict import words_of

VERDICTS = ("supported", "contradicted", "unverifiable")
"""What a judge can say of a claim. The order is that of every table and matrix."""

MOST_CLAIMS = 200
"""Claims of one caption beyond which the judge has not split it, but run away."""

MOST_WORDS = 60
"""Words of a claim beyond which it is no single fact."""

SPLIT = (
    "You split the caption of a picture into claims. You do not see the picture. For every sentence that is "
    "given, list each claim that it makes about the picture: one fact a claim (that a thing is there, one of "
    "its attributes, a number, a place, a relation, a word that can be read), worded so that it can be "
    "understood and checked on its own. Write one line a claim: the sentence's number, a colon, the claim. "
    "For a sentence without any claim write its number, a colon and a dash. Write nothing else."
)
CHECK = (
    "Look at the picture and judge one statement about it. Answer with a single word: supported, if the "
    "picture shows that the statement is true; contradicted, if the picture shows that it is false; "
    "unverifiable, if the picture does not decide it."
)
PREFER = (
    "Look at the picture and compare two captions of it. The better one tells more of what the picture shows "
    "and says less that is wrong; length and style alone count for nothing. Answer with a single digit: 1, "
    "if the first is better; 2, if the second is better; 0, if neither is."
)
WRITE = (
    "Look at the picture and write up to {number} questions that test how well somebody knows what it shows: "
    "which things are there, then their attributes, numbers, places, relations, and words that can be read. "
    "Write one line a question, with five fields and | between them: its number; the number of the question "
    "that it depends on (one that must have been answered for this one to make sense), or a dash; the "
    "question; four answers, each with its letter, as in A) red B) green C) blue D) white; the letter of the "
    "right one. Vary which letter is right. Write nothing else."
)
ANSWER = (
    "You are given a caption of a picture that you do not see, and a question about that picture. Answer "
    "from the caption alone, with a single letter: the letter of the right answer, or E, if the caption does "
    "not tell."
)
REPHRASE = "This is about what is visible alone: nobody is to be named, and nothing is to be approved of."
"""Added to a question that was refused."""
INSTRUCTIONS = {"split": SPLIT, "check": CHECK, "prefer": PREFER, "write": WRITE, "answer": ANSWER}
DIGEST = key_of("judge", {**INSTRUCTIONS, "caveat": GIVEN_CAVEAT, "rephrase": REPHRASE}, {})
"""Tells any change of the wording."""

NOT_TOLD = "E"
"""The letter of an answer that the caption does not give."""

_LINE = re.compile(r"\W*(?:sentence\s+)?(\d{1,4})\s*[\].):]+\s*(\S.*)", re.IGNORECASE)
_NUMBER = re.compile(r"(\d{1,4})[.)]?")
_NONE = re.compile(r"[-–—]+|none\.?", re.IGNORECASE)
_OPTION = re.compile(r"\(?\b([A-D])\)\s*")
_LETTER = re.compile(r"\b([A-E])[).:]|(?:\b(?:or|and)|[/&])\s*\(?([A-E])\b")
_NOT = re.compile(r"n['’]t\b")
_TAKEN_BACK = ("no", "nope", "never", "neither", "false", "wrong", "incorrect", "or", "partly", "partially")
_GIVEN = re.compile(rf"^given ([a-z]+(?: \d+)?): {OPENS}(.*){CLOSES}$", re.MULTILINE)


def split_prompt(sentences: Sequence[str]) -> str:
    """Asks for the claims of each sentence; they are numbered from 1."""
    return _prompt(SPLIT, [given(f"sentence {n}", s) for n, s in enumerate(sentences, 1)])


def check_prompt(claim: str) -> str:
    """Asks whether the picture supports a claim."""
    return _prompt(CHECK, [given("statement", claim)])


def prefer_prompt(first: str, second: str) -> str:
    """Asks which of two captions is better."""
    return _prompt(PREFER, [given("caption 1", first), given("caption 2", second)])


def write_prompt(number: int) -> str:
    """Asks for questions about the picture."""
    return WRITE.format(number=number)


def answer_prompt(caption: str, question: str, options: Sequence[str]) -> str:
    """Asks a question, of who sees the caption alone."""
    letters = [given(f"answer {n}", text) for n, text in enumerate(options, 1)]
    meaning = "Answer 1 has the letter A, answer 2 the letter B, and so on."
    return _prompt(ANSWER, [given("caption", caption), given("question", question), *letters, meaning])


def _prompt(instruction: str, lines: Sequence[str]) -> str:
    return "\n".join([instruction, GIVEN_CAVEAT, *lines])


def texts_given(prompt: str) -> dict[str, str]:
    """The texts that a prompt of this file is about, by what they are ("sentence 1", "statement")."""
    return dict(_GIVEN.findall(prompt))


def read_claims(answer: str, sentences: int) -> list[tuple[int, str]] | None:
    """(sentence from 0, claim) from an answer to `split_prompt`, each once and in order; None if unreadable.

    Unreadable is an answer with a line of another form, one that leaves a sentence out or names one that
    there is not, and one with too much: a judge that lost its thread has not split the caption.
    """
    found: dict[tuple[int, str], None] = {}
    named = set[int]()
    for line in filter(str.strip, answer.splitlines()):
        match = _LINE.fullmatch(line.strip())
        if not match or not 1 <= int(match[1]) <= sentences:
            return None
        number, claim = int(match[1]) - 1, " ".join(match[2].split())
        named.add(number)
        if not _NONE.fullmatch(claim):
            found[number, claim] = None
    too_much = len(found) > MOST_CLAIMS or any(len(words_of(claim)) > MOST_WORDS for _, claim in found)
    return None if too_much or len(named) < sentences else sorted(found, key=lambda one: one[0])


def read_verdict(answer: str) -> str | None:
    """One of `VERDICTS`, if the answer is that word, or begins with it and takes nothing of it back: holds no
    other one and no "not", and doesn't go on as "Supported: no" does.
    """
    words = words_of(_NOT.sub(" not", answer))
    if not words or words[0] not in VERDICTS or {"not", *VERDICTS} & set(words[1:]) - {words[0]}:
        return None
    return None if words[1:2] and words[1] in _TAKEN_BACK else words[0]


def read_choice(answer: str) -> str | None:
    """ "1", "2" or "0", if the answer is that digit alone."""
    bare = answer.strip().strip(".)(*\"' ")
    return bare if bare in ("0", "1", "2") else None


def read_letter(answer: str) -> str | None:
    """ "A" to "E", if the answer is that letter, or begins with it as "B)" does and names no other."""
    match = re.fullmatch(r"\W*([A-E])(?:[).:](.*)|\W*)", answer.strip(), re.DOTALL)
    if not match:
        return None
    others = {a or b for a, b in _LETTER.findall(match[2] or "")}
    return None if others - {match[1]} else match[1]


@dataclass(frozen=True)
class Question:
    """A question about a picture, which may make sense only if another one was answered (DSG, 2310.18235)."""

    number: int
    depends_on: int | None
    text: str
    options: tuple[str, ...]  # four
    right: str  # "A" to "D"


def read_questions(answer: str, most: int) -> list[Question] | None:
    """The questions in an answer to `write_prompt`; None if one can't be read, or there is none."""
    found: list[Question] = []
    for line in filter(str.strip, answer.splitlines()):
        fields = [field.strip() for field in line.strip().strip("|").split("|")]
        if len(fields) != 5 or not (own := _NUMBER.fullmatch(fields[0])):
            return None
        number, parent = int(own[1]), _NUMBER.fullmatch(fields[1])
        pieces = _OPTION.split(fields[3])
        options = tuple(text.strip(" ,;") for text in pieces[2::2])
        right = fields[4].strip("().* ")
        depends_on = int(parent[1]) if parent else None
        known = {one.number for one in found}
        if (
            "".join(pieces[1::2]) != "ABCD"
            or not all(options)
            or right not in tuple("ABCD")
            or not fields[2]
            or number in known
            or (depends_on is None and not _NONE.fullmatch(fields[1]))
            or (depends_on is not None and depends_on not in known)
        ):
            return None
        found.append(Question(number, depends_on, fields[2], options, right))
    return found[:most] or None
