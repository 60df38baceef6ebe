"""The objects that a caption names, by CHAIR's vocabulary (arXiv 1809.02156).

The vocabulary (`synonyms.txt`) and the objects of each image are data of the user's. Words are made singular
by the table beside them, where there is one, else by the rules below.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sharecap.errors import SharecapError

_TOKEN = re.compile(r"\w+(?:[-/.]\w+)*|[^\w\s]")

_TWO_WORDS = """
    motor bike, motor cycle, air plane, traffic light, street light, traffic signal, stop light, fire hydrant,
    stop sign, parking meter, suit case, sports ball, baseball bat, baseball glove, tennis racket, wine glass,
    hot dog, cell phone, mobile phone, teddy bear, hair drier, potted plant, bow tie, laptop computer,
    stove top oven, home plate, train track
"""
_ANIMALS = ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe")
_DOUBLE = {pair.strip(): pair.strip() for pair in _TWO_WORDS.split(",")}
_DOUBLE |= {f"{age} {animal}": animal for animal in (*_ANIMALS, "animal", "cub") for age in ("baby", "adult")}
_DOUBLE |= {f"passenger {vehicle}": vehicle for vehicle in ("jet", "train")}
_DOUBLE |= {"bow tie": "tie", "toilet seat": "toilet", "wine glas": "wine glass"}
"""Words that mean another object together than one by one; the singular of "glass" comes out as "glas"."""

_IRREGULAR = {"men": "man", "people": "person", "children": "child", "geese": "goose", "feet": "foot"}
_IRREGULAR |= {"mice": "mouse", "oxen": "ox", "teeth": "tooth"}
_UNCHANGED = ("sheep", "scissors", "bison", "deer", "fish", "swine", "aircraft", "series", "species")
_ENDINGS = (
    (r"(kni|wi|li|lea|loa|shel|wol|cal|hal|sel|thie|hoo|scar)ves$", r"\1f"),
    (r"(bus|gas)(es)?$", r"\1"),
    (r"(x|ch|ss|sh)es$", r"\1"),
    (r"(tomato|potato|buffalo|hero|mosquito)es$", r"\1"),
    (r"(mov|cook|collie|dogg)ies$", r"\1ie"),
    (r"([^aeiouy]|qu)ies$", r"\1y"),
    (r"s$", ""),
)
_FE = ("knif", "wif", "lif")


@dataclass(frozen=True)
class Vocabulary:
    """Which words name which object."""

    object_of: Mapping[str, str]  # synonym -> object
    singular_of: Mapping[str, str] = field(default_factory=dict)  # where the rules below don't do

    def objects(self, caption: str) -> list[str]:
        """The objects that the caption mentions, in order, each as often as it does."""
        words = [self.singular(word) for word in _TOKEN.findall(caption.lower())]
        joined: list[str] = []
        at = 0
        while at < len(words):
            pair = " ".join(words[at : at + 2])
            joined.append(_DOUBLE.get(pair, words[at]))
            at += 2 if pair in _DOUBLE else 1
        if "toilet" in joined:
            joined = [word for word in joined if word != "seat"]
        return [self.object_of[word] for word in joined if word in self.object_of]

    def singular(self, word: str) -> str:
        """The word in the singular."""
        return self.singular_of.get(word) or singular(word)


def singular(word: str) -> str:
    """The singular by rule, as the original's library has it ("glass" becomes "glas")."""
    if word.endswith(_UNCHANGED):
        return word
    for plural, one in _IRREGULAR.items():
        if word.endswith(plural):
            return word[: -len(plural)] + one
    for ending, end in _ENDINGS:
        made = re.sub(ending, end, word)
        if made != word:
            return made + "e" if made in _FE else made
    return word


def read_vocabulary(directory: Path) -> Vocabulary:
    """`synonyms.txt` (an object and its synonyms a line), and `singularize_table.json` if it is there."""
    path = directory / "synonyms.txt"
    if not path.is_file():
        raise SharecapError("no synonyms.txt", where=directory, todo="CHAIR needs the table of object names")
    object_of: dict[str, str] = {}
    for line in filter(str.strip, _text(path).splitlines()):
        # A doubled space stays in the name, as in the original, which therefore never finds "cheesecake".
        names = line.strip().split(", ")
        object_of |= dict.fromkeys(names, names[0])
    table = directory / "singularize_table.json"
    singular_of = _json(table) if table.is_file() else {}
    if not isinstance(singular_of, dict) or not all(isinstance(one, str) for one in singular_of.values()):
        raise SharecapError("expected a JSON object, plural to singular", where=table)
    return Vocabulary(object_of, singular_of)


def read_objects(path: Path) -> dict[str, list[str]]:
    """Image id -> the objects in it (instances and captions together): a JSON object of lists."""
    content = _json(path)
    lists = isinstance(content, dict) and all(isinstance(names, list) for names in content.values())
    if not lists or not all(isinstance(name, str) for names in content.values() for name in names):
        raise SharecapError("expected lists of object names by image id", where=path)
    return {str(image): sorted(set(names)) for image, names in content.items()}


def objects_file(labels: Path) -> Path:
    """`labels` itself, or the one file in that directory which by its name holds the images' objects."""
    if labels.is_file():
        return labels
    files = [p for p in sorted(labels.glob("*.json")) if "objects" in p.name]
    if len(files) != 1:
        what = f"{len(files)} files with 'objects' in their name, expected one"
        raise SharecapError(what, where=labels, todo="name the file itself")
    return files[0]


def _json(path: Path) -> Any:
    try:
        return json.loads(_text(path))
    except (ValueError, RecursionError) as error:  # also brackets by the thousand
        raise SharecapError(f"not JSON ({error})", where=path, todo="is the file complete?") from None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SharecapError(f"cannot read ({error})", where=path) from None
