"""Which part of speech each word of a caption is: textblob's tagger, or a spaCy model where there is one.

Both are given the same words, cut here, so their answers can be compared word by word. Nothing is downloaded.
"""

import importlib.metadata
import re
from collections.abc import Iterable, Sequence
from typing import Protocol

from sharecap.captions.sentences import sentences
from sharecap.errors import UsageError

PARTS = ("nouns", "adjectives", "adverbs", "verbs", "numerals", "prepositions")
"""The parts of speech that the paper counts (its table of lexical composition); all else is `other`."""

OTHER = "other"
TEXTBLOB = "textblob"
INSTALL = "pip install 'sharecap[quality]'"

Word = tuple[str, str]
"""(word as it stands, one of `PARTS` or `OTHER`)."""

_TOKEN = re.compile(
    r"\d+(?:[.,:/]\d+)*[^\W\d_]*"  # 1,200 and 10:30 and 1950s
    r"|[^\W\d_](?:[^\W_]|[-'](?=[^\W_]))*"  # words with their hyphens and apostrophes
    r"|\S"
)
_TAGGERS = frozenset({"tagger", "attribute_ruler"})
"""Parts of a spaCy model that set the Penn tags."""

_CLITICS = ("s", "m", "d", "re", "ve", "ll")
_PARTS = {"NN": "nouns", "JJ": "adjectives", "RB": "adverbs", "VB": "verbs", "CD": "numerals"}


class Tagger(Protocol):
    """Tags words in the Penn Treebank's set."""

    @property
    def name(self) -> str:
        """What tells this tagger from another whose figures may differ."""
        ...

    def tag(self, sentences: Sequence[Sequence[str]]) -> list[list[str]]:
        """A tag for every word of every sentence."""
        ...


class Textblob:
    """textblob's `PatternTagger`, a lexicon with rules: English, all in the wheel, no corpus to fetch."""

    def __init__(self) -> None:
        try:
            from textblob.en import parser  # type: ignore[import-untyped]
        except ImportError as error:
            raise UsageError(f"no tagger of words ({error})", todo=INSTALL) from None
        self._parser = parser

    @property
    def name(self) -> str:
        """With its release."""
        return f"textblob {importlib.metadata.version('textblob')} (pattern)"

    def tag(self, sentences: Sequence[Sequence[str]]) -> list[list[str]]:
        """See `Tagger`."""
        return [[tag for _, tag in self._parser.find_tags(list(words))] for words in sentences]


class Spacy:
    """A spaCy model of English, by its package's name or its directory. `UsageError` for any other."""

    def __init__(self, model: str) -> None:
        try:
            import spacy
        except ImportError as error:
            raise UsageError(f"no spaCy ({error})", where=model, todo="pip install spacy") from None
        try:
            self._model = spacy.load(model, exclude=["parser", "ner", "lemmatizer"])
        except (OSError, ValueError, ImportError) as error:
            what = (str(error).splitlines() or [type(error).__name__])[0][:200]
            todo = f"install one (python -m spacy download en_core_web_sm), or --tagger {TEXTBLOB}"
            raise UsageError(f"cannot load the spaCy model ({what})", where=model, todo=todo) from None
        meta = self._model.meta
        if meta["lang"] != "en" or not _TAGGERS.intersection(self._model.pipe_names):
            todo = f"choose an English model with a tagger, or --tagger {TEXTBLOB}"
            raise UsageError("this spaCy model does not tag English", where=model, todo=todo)
        self.name = (
            f"spaCy {importlib.metadata.version('spacy')} ({meta['lang']}_{meta['name']} {meta['version']})"
        )

    def tag(self, sentences: Sequence[Sequence[str]]) -> list[list[str]]:
        """See `Tagger`."""
        from spacy.tokens import Doc

        docs = (Doc(self._model.vocab, words=list(words)) for words in sentences)
        return [[token.tag_ for token in doc] for doc in self._model.pipe(docs)]


def open_tagger(name: str | None = None) -> Tagger:
    """The tagger of that name: `textblob`, or a spaCy model. Without a name, an installed English spaCy model
    if there is one, the first by its name, else textblob. `UsageError` if it is not installed.
    """
    chosen = name or next(iter(english_models()), TEXTBLOB)
    return Textblob() if chosen == TEXTBLOB else Spacy(chosen)


def english_models() -> list[str]:
    """Installed packages that are spaCy models of English, by name."""
    found = importlib.metadata.entry_points(group="spacy_models")
    return sorted({model.name for model in found if model.name.startswith("en_")})


def words_of(sentence: str) -> list[str]:
    """The words and signs of a sentence as taggers want them: "doesn't" is "does" and "n't"."""
    found: list[str] = []
    for token in _TOKEN.findall(sentence.replace("’", "'")):
        found += _parts(token)
    return found


def tagged(text: str, tagger: Tagger) -> list[Word]:
    """The words of a caption with their parts of speech; signs are left out."""
    cut = [words for one in sentences(text) if (words := words_of(one))]
    found: list[Word] = []
    for words, tags in zip(cut, tagger.tag(cut), strict=True):
        after = [*tags[1:], ""]
        found += [
            (word, _part(word, tag, following))
            for word, tag, following in zip(words, tags, after, strict=True)
            if any(c.isalnum() for c in word)
        ]
    return found


def agreement(texts: Iterable[str], a: Tagger, b: Tagger) -> tuple[int, int]:
    """(words, those that both taggers count as the same part of speech)."""
    words = same = 0
    for text in texts:
        for (_, one), (_, other) in zip(tagged(text, a), tagged(text, b), strict=True):
            words += 1
            same += one == other
    return words, same


def _parts(token: str) -> list[str]:
    lower = token.lower()
    if lower.endswith("n't") and len(token) > 3:
        return [token[:-3], token[-3:]]
    stem, sign, end = token.rpartition("'")
    if stem and end.lower() in _CLITICS:
        return [stem, sign + end]
    return [token]


def _part(word: str, tag: str, following: str) -> str:
    """Of these parts of speech, the one that a Penn tag belongs to, with the tag of the next word."""
    if word[0].isdigit():
        return "numerals"  # the lexicon takes "2" for a word for "to"
    if tag in ("IN", "TO"):
        # "to" is one tag for the preposition and for the sign of an infinitive.
        return OTHER if word.lower() == "to" and following.startswith("VB") else "prepositions"
    return _PARTS.get(tag[:2], OTHER)
