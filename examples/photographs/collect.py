"""Copy the photographs of this example out of scikit-image and scikit-learn, one sub-folder per source.

    python examples/photographs/collect.py photos

The sub-folder's name routes the prompt: `coco/` is asked about objects, `textcaps/` about words, and so on.
"""

import json
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

ANSWERS = Path(__file__).with_name("answers.jsonl")


def collect(folder: Path) -> int:
    """Copy every photograph of `answers.jsonl` to its place below `folder`; returns how many."""
    rows = [json.loads(line) for line in ANSWERS.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        package, _, inside = row["origin"].partition("/")
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            sys.exit(f"{package} is not installed. Run: pip install scikit-image scikit-learn")
        source = Path(spec.origin).parent / inside
        if not source.is_file():
            sys.exit(f"the installed {package} has no {inside}. Install the version in constraints.txt")
        target = folder / row["file"]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    return len(rows)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python collect.py FOLDER")
    print(f"{collect(Path(sys.argv[1]))} photographs in {sys.argv[1]}")
