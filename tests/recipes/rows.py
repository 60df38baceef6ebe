"""A user's folder for the recipe `tiny`: rows with pictures, and models of their own, all tiny."""

from pathlib import Path

from sharecap.data.rows import write_rows
from sharecap.records import Conversation, Turn
from tests.model.tiny import caption_rows, language_folder, vision_folder

CAPTIONS = [f"There is a red circle, and {n} blue squares above it." for n in range(8)]
MODELS = ["parts.vision={}/models/tower", "parts.language={}/models/language"]


def user_folder(place: Path) -> Path:
    """models/tower, models/language, rows/captions.json, rows/instructions.json, rows/pictures."""
    vision_folder(place / "models/tower")
    language_folder(place / "models/language")
    rows = caption_rows(place / "rows/pictures", CAPTIONS)
    write_rows(place / "rows/captions.json", rows, place / "rows")
    more = (Turn("user", "How many squares?"), Turn("assistant", "There are none."))
    talks = [Conversation(row.id, row.images, row.turns + more) for row in rows]
    text = Conversation("text", (), (Turn("user", "What is white?"), Turn("assistant", "The background.")))
    write_rows(place / "rows/instructions.json", [*talks, text], place / "rows")
    return place


def quick(place: Path) -> list[str]:
    """Settings that make `tiny` a matter of a second on these models."""
    steps = [f"{stage}.steps=2" for stage in ("align", "pretrain", "sft")]
    return [*(words.format(place) for words in MODELS), *steps, "pretrain.rules.vision.from_block=1"]
