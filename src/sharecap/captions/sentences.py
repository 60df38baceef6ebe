"""Cutting a caption into sentences, so that one of them can be dropped or put right while the rest stays.

Rules, no model: good for captions, in scripts with and without spaces. The pieces always join to the text.
"""

import re

_SHORT = """mr mrs ms dr prof st mt ft vs fig figs vol ed approx ca cf al jr sr inc ltd co e.g i.e u.s u.k
    jan feb mar apr jun jul aug sep sept oct nov dec"""
_ABBREVIATIONS = frozenset(_SHORT.split())
"""Words whose full stop does not end a sentence, in lower case without the last stop."""

_END = re.compile(
    r"""(?<![.!?…])[.!?…]++["'”’»)\]]*+(?=\s)"""  # an end, then a space
    r"|[。！？]+[”’」』）]*"  # scripts that write none
    r"|\S(?=\s*\n)",  # the end of a line that has no stop (a heading, an item of a list)
)
_LAST_WORD = re.compile(r"([^\s(\[\"“‘']+)[.]$")
_GAP = re.compile(r"\s*")


def pieces(text: str) -> list[tuple[str, str]]:
    """(sentence, white space after it), in order; white space before the first belongs to the first.

    `"".join(a + b for a, b in pieces(text)) == text` for every text.
    """
    found, start = [], 0
    for match in _END.finditer(text):
        end = match.end()
        if end <= start or not text[start:end].strip():
            continue
        gap = _GAP.match(text, end)
        assert gap is not None
        if "\n" not in gap[0] and not _ends(text, match.start(), end, gap.end()):
            continue
        found.append((text[start:end], gap[0]))
        start = gap.end()
    if start < len(text):
        rest = text[start:]
        found.append((rest.rstrip(), rest[len(rest.rstrip()) :]))
    return found


def sentences(text: str) -> list[str]:
    """The sentences, without the white space between them."""
    return [sentence.strip() for sentence, _ in pieces(text)]


def _ends(text: str, stop: int, end: int, following: int) -> bool:
    """What stands at `stop` ends a sentence: no abbreviation, no initial, nothing in lower case after."""
    if text[stop] in "。！？" or following >= len(text):
        return True
    if text[following].islower():
        return False
    if text[stop : stop + 1] != "." or end - stop > 1:
        return True
    word = _LAST_WORD.search(text, max(0, stop - 40), stop + 1)
    if word is None:
        return True
    last = word[1]
    initial = len(last) == 1 and last.isupper() and last != "I"
    return not initial and last.lower() not in _ABBREVIATIONS
