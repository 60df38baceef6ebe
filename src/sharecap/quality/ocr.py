"""OCR recall: of the words that were read in an image, the share that its caption gives.

The reader is fallible and its words are hostile: they are only ever looked for.
"""

import re

from sharecap.quality.lexical import Pair

OCR = "ocr_recall"
SHORTEST = 2
"""Letters or digits of a word that counts; a single one is more often noise than writing."""

MOST_JOINED = 4
"""Words of a caption that may be one word to the reader, which loses spaces."""

_WORD = re.compile(r"[^\W_]+")
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
"""Letters of scripts that put no spaces between words."""


def ocr_recall(read: str, text: str) -> Pair:
    """Different words of `read` that the caption `text` has, and all of them, whatever their case.

    A word of a script without spaces counts where it is found inside the caption.
    """
    wanted = {word for word in _words(read) if len(word) >= SHORTEST}
    if not wanted:
        return 0, 0
    said = _words(text)
    given = {"".join(said[i : i + n]) for n in range(1, MOST_JOINED + 1) for i in range(len(said))}
    folded = text.casefold()
    return sum(w in given or bool(_UNSPACED.search(w) and w in folded) for w in wanted), len(wanted)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold().replace("'", "").replace("’", ""))
