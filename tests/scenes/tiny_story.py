"""The whole story at the size of a test, in a process of its own, for a test to interrupt.

python -m tests.scenes.tiny_story ROOT: prints the report's path and whether torch was needed.
"""

import json
import sys
from pathlib import Path

from sharecap.errors import SharecapError
from sharecap.scenes.quickstart import ArmSpec, QuickstartSpec, Story

SPEC = QuickstartSpec(
    seed=1,
    parts_pictures=64,
    tower_steps=4,
    text_rows=60,
    text_steps=30,
    first_pictures=40,
    looking_steps=50,
    answering_steps=12,
    large_pictures=16,
    question_rows=16,
    detail_rows=6,
    heldout_pictures=12,
    arm=ArmSpec(align_steps=2, pretrain_steps=3, sft_steps=3, batch_rows=8, rate=4e-3),
)

if __name__ == "__main__":
    try:
        page = Story(Path(sys.argv[1]), SPEC).run()
    except SharecapError as error:
        print(f"sharecap: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    print(json.dumps({"page": str(page), "torch": "torch" in sys.modules}))
