"""The whole story at the size of a test, in a process of its own, for a test to interrupt.

python -m tests.scenes.tiny_story ROOT: prints the report's path and whether torch was needed.
"""

import json
import sys
from pathlib import Path

from sharecap.cli import ENVIRONMENT, enter
from sharecap.scenes.quickstart import ArmSpec, QuickstartSpec, Story

SPEC = QuickstartSpec(
    seed=1,
    parts_pictures=64,
    tower_steps=4,
    text_rows=60,
    text_steps=4,
    first_pictures=40,
    looking_steps=4,
    answering_steps=2,
    large_pictures=40,
    question_rows=30,
    detail_rows=6,
    heldout_pictures=24,
    arm=ArmSpec(align_steps=2, pretrain_steps=3, sft_steps=3, batch_rows=4),
)
