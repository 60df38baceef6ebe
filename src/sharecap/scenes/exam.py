"""Questions about held-out scenes as benchmarks: the official files of MME, MMBench and VQAv2 on disk.

The evaluation reads them as it reads the real ones; it doesn't know that these are scenes.
"""

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from sharecap.scenes.benchmark_files import Question, YesNoPair, write_mmbench, write_mme, write_vqav2
from sharecap.scenes.questions import ask, options, yes_no
from sharecap.scenes.world import Truth, WorldSpec


def write_exam(world: Path, truths: Sequence[Truth], spec: WorldSpec, directory: Path) -> dict[str, int]:
    """Write the three benchmarks below `directory`; returns the number of questions of each kind.

    Every picture is asked all that it can answer: as a yes/no pair and as an open question; multiple choice
    goes around, because circular evaluation asks each question once per option.
    """
    pairs, choices, opened = [], [], []
    kinds: Counter[str] = Counter()
    for number, truth in enumerate(truths):
        rng = random.Random(f"exam/{spec.seed}/{truth.file}")
        image = world / truth.file
        for place, asked in enumerate(ask(truth.scene, spec, rng)):
            kinds[asked.kind] += 1
            name = f"{number}-{asked.kind}"
            pairs.append(YesNoPair(image, asked.kind, yes_no(asked, True, rng), yes_no(asked, False, rng)))
            if place == 0:
                offered, _ = options(asked, 4, rng)
                choices.append(Question(name, image, asked.kind, asked.text, asked.answer, offered))
            if asked.kind != "existence":
                opened.append(Question(name, image, asked.kind, asked.text, asked.answer))
    write_mme(pairs, directory / "mme")
    write_mmbench(choices, directory / "mmbench" / "scenes_dev.tsv")
    write_vqav2(opened, directory / "vqav2")
    return dict(kinds)
