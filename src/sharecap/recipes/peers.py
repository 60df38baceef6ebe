"""The paper's main table as published: its models and the peers that they stand beside, on eleven benchmarks.

Every figure is somebody else's; pages that show it say *published*. None was measured here.
"""

from dataclasses import dataclass

BENCHMARKS = (
    *("LLaVA-Bench", "MME-P", "MME-C", "MMBench", "MMBench-CN", "SEED-I"),
    *("MM-Vet", "Q-Bench", "SQA-I", "VQAv2", "VizWiz"),
)

MARKS = (
    "*: it has seen training images of this benchmark; †: not read in the paper itself; ‡: run again by the "
    "paper's authors. A dash: not reported."
)


@dataclass(frozen=True)
class Peer:
    """One published row."""

    model: str
    language: str  # its language model
    scores: tuple[str, ...]  # in the order of `BENCHMARKS`, with the marks explained in `MARKS`; "" for none


def published(model: str, language: str, scores: str) -> Peer:
    """A row from scores written in one line, "-" where none is reported."""
    found = tuple("" if score == "-" else score for score in scores.split())
    assert len(found) == len(BENCHMARKS), model
    return Peer(model, language, found)


PEERS = (
    published("BLIP-2", "Vicuna-13B†", "38.1 1293.8 290.0 - - 46.4 22.4 - 61.0 41.0† 19.6"),
    published("InstructBLIP", "Vicuna-7B", "60.9 - - 36.0 23.7 53.4 26.2 56.7 60.5 - 34.5"),
    published("InstructBLIP", "Vicuna-13B", "58.2 1212.8 291.8 - - - 25.6 - 63.1 - 33.4"),
    published("Shikra", "Vicuna-13B", "- - - 58.8 - - - 54.7 - 77.4* -"),
    published("IDEFICS-80B", "LLaMA-65B", "- - - 54.5 38.1 - - - - 60.0 36.0"),
    published("Qwen-VL", "Qwen-7B", "- - - 38.2 7.4 56.3 - 59.4 67.1 78.8* 35.2"),
    published("Qwen-VL-Chat", "Qwen-7B", "- 1487.5 360.7 60.6 56.7 58.2 - - 68.2 78.2* 38.9"),
    published("LLaVA", "Vicuna-7B", "63.0 807.0 247.9 34.1 14.1† 25.5 26.7 - 38.5† - -"),
    published("LLaVA-1.5", "Vicuna-7B", "63.4 1510.7 316.1‡ 64.3 58.3 66.2 30.5 58.7 66.8 78.5* 50.0"),
    published("LLaVA-1.5", "Vicuna-13B", "70.7 1531.3 295.4‡ 67.7 63.6 68.2 35.4 62.1 71.6 80.0* 53.6"),
    published("ShareGPT4V-7B", "Vicuna-7B", "72.6 1567.4 376.4 68.8 62.2 69.7 37.6 63.4 68.4 80.6 57.2"),
    published(
        "ShareGPT4V-13B",
        "Vicuna-13B (not in the paper)",
        "79.9 1618.7 303.2 68.5 63.7 70.8 43.1 65.2 71.2 81.0 55.6",
    ),
)

TOWER_SHARES = {
    0.0: ("49.6", "1515.2 / 66.6 / 68.1"),
    0.25: ("53.2†", "1556.0† / 67.2† / 69.3†"),
    0.5: ("56.7", "1567.4 / 68.8 / 69.7"),
    0.75: ("60.0†", "1529.5† / 67.7† / 69.6†"),
    1.0: ("63.6", "1545.7 / 68.5 / 69.2"),
}
"""Table 6: share of the tower that learns in pre-training -> GB of a GPU, and MME-P / MMBench / SEED-I."""

PREFERENCE = (38.2, 35.3, 26.5)
"""Table 2: per cent of answers that prefer the teacher's caption, the captioner's, neither."""
