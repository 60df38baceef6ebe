"""What one row of a table learns from and which of its parts learn: the paper's experiments, without a size.

A design is plain data. `experiments.py` holds the tables; a size turns a design into runs: `at_size.py` into
recipes for real models, the embedded world into models that two cores train in minutes.
"""

from dataclasses import dataclass
from typing import Literal

from sharecap.errors import UsageError

Captions = Literal[
    "none",
    "questions",
    "short",
    "captioner",
    "teacher",
    "human",
    "one_prompt",
    "mixed",
    "alt_text",
    "trimmed",
]
"""What pre-training reads. none: there is no such stage; questions: instruction rows instead of captions;
one_prompt: the teacher's, without prompts made for each source; mixed: a short caption for every other image;
alt_text: the captioner's, behind the words that the image came with; trimmed: the captioner's, without
sentences that are wrong."""

Model = Literal["llava_7b", "llava_1_5_7b", "llava_1_5_13b", "qwen_vl"]

MISTAKES = 0.02
"""Wrong attributes of the teacher, where nothing else is said."""


@dataclass(frozen=True)
class Design:
    """One model of a table: by default ShareGPT4V-7B's recipe."""

    name: str = "both"  # the row's label
    model: Model = "llava_1_5_7b"
    pretrain: Captions = "captioner"
    images: float = 1.0  # share of the images whose captions are read in pre-training
    tower: float = 0.5  # share of the vision tower's blocks that learn in pre-training, from the last on
    details: Literal["blind", "teacher"] = "teacher"  # who wrote the detailed rows among the instructions
    mistakes: float = MISTAKES  # share of attributes that the teacher tells wrong (pretrain="teacher" only)


@dataclass(frozen=True)
class Claim:
    """That one row's score is better than another's, or about the same."""

    row: str
    than: str
    paper: str = ""  # what the paper measured for it; "" if it is not the paper's claim
    equal: bool = False  # it says: about the same


@dataclass(frozen=True)
class Experiment:
    """One table or figure: its rows, and what it claims of them."""

    name: str
    title: str
    where: str  # in the paper; "" for a question beyond it
    claim: str  # one sentence for someone who hasn't read the paper
    designs: tuple[Design, ...]
    claims: tuple[Claim, ...]
    follows: str  # what follows if it is true
    curve: str = ""  # field of the designs along which a curve is drawn; "": none is
    note: str = ""  # how the small world differs

    def __post_init__(self) -> None:
        names = [design.name for design in self.designs]
        if len(set(names)) < len(names):
            raise UsageError("two rows have the same name", where=f"experiment {self.name}")
        for claim in self.claims:
            for name in (claim.row, claim.than):
                if name not in names:
                    raise UsageError(f"a claim about a row {name!r} that isn't there", where=self.name)

    def design(self, name: str) -> Design:
        """The row of that name."""
        return next(design for design in self.designs if design.name == name)
