"""Which language is this caption in? By its script and, for Latin letters, by a few stop words.

Cheap enough for every caption and right for sentences; a caption of a few words may get no answer (""). It
must never be used to judge a single caption, only shares of many.
"""

import re

SCRIPTS = {
    "ja": r"[\u3040-\u30ff]",
    "zh": r"[\u4e00-\u9fff]",
    "ko": r"[\uac00-\ud7af]",
    "ru": r"[\u0400-\u04ff]",
    "el": r"[\u0370-\u03ff]",
    "he": r"[\u0590-\u05ff]",
    "ar": r"[\u0600-\u06ff]",
    "hi": r"[\u0900-\u097f]",
    "th": r"[\u0e00-\u0e7f]",
}
"""Letters that give a script away. "ru", "ar" and "hi" stand for all languages of their script."""

STOP_WORDS = {
    "en": "the of and is with in on are there which that this from by an at its it to a",
    "de": "der die das und ist mit auf ein eine einem einer den dem im sind von zu vor nicht auch",
    "fr": "le la les des et est une dans avec sur du un au aux qui sont par pour ce cette",
    "es": "el la los las y es una en con del un por que se su sobre hay al como está",
    "it": "il lo la gli le e è una in con del della di un per che sono nel nella sul",
    "pt": "o a os as e é uma em com do da no na um que são por ao dos das",
    "nl": "de het een en is met van op in zijn er aan die dat naar voor te bij ook niet",
}
NAMES = {
    "english": "en",
    "german": "de",
    "deutsch": "de",
    "french": "fr",
    "français": "fr",
    "spanish": "es",
    "español": "es",
    "italian": "it",
    "italiano": "it",
    "portuguese": "pt",
    "português": "pt",
    "dutch": "nl",
    "nederlands": "nl",
    "japanese": "ja",
    "日本語": "ja",
    "chinese": "zh",
    "中文": "zh",
    "korean": "ko",
    "한국어": "ko",
    "russian": "ru",
    "русский": "ru",
    "greek": "el",
    "hebrew": "he",
    "arabic": "ar",
    "العربية": "ar",
    "hindi": "hi",
    "thai": "th",
}
FEWEST = 3
"""Stop words of a language, or letters of a script, below which nothing is said."""

_STOP: dict[str, list[str]] = {}  # stop word -> the languages that have it
for _language, _words in STOP_WORDS.items():
    for _word in _words.split():
        _STOP.setdefault(_word, []).append(_language)


def code_of(name: str) -> str:
    """The code of a language by its name or code; "" for one that isn't told apart."""
    name = name.strip().lower()
    return name if name in STOP_WORDS or name in SCRIPTS else NAMES.get(name, "")


def language_of(text: str) -> str:
    """A language's code, or "" where the text doesn't say."""
    text = text[:400]
    if not text.isascii():
        counts = {code: len(re.findall(letters, text)) for code, letters in SCRIPTS.items()}
        if counts["ja"] and counts["zh"]:
            counts["ja"] += counts["zh"]  # Japanese mixes both; Chinese has no kana
        code = max(counts, key=lambda c: counts[c])
        # A quoted sign in another script makes no caption of that language.
        if counts[code] >= FEWEST and counts[code] * 2 >= sum(c.isalpha() for c in text):
            return code
    hits = dict.fromkeys(STOP_WORDS, 0)
    for word in text.lower().split():
        for language in _STOP.get(word, ()):
            hits[language] += 1
    first, second, *_ = sorted(hits, key=hits.__getitem__, reverse=True)
    return first if hits[first] >= FEWEST and hits[first] > hits[second] else ""
