"""A trained captioner, 1,000 pictures of which 30 are broken, killed five times: is each accounted for?

Ten are broken before they are added, twenty after: gone, cut, emptied, or another picture in their place.
Asserts that the layer holds a caption of every whole picture and that every broken one is a named failure.
`python benchmarks/captioner_kills.py quickstart/captioner/model`
"""

import argparse
import json
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from sharecap.captions.layer import read_layer, read_missing
from sharecap.images.add import add
from sharecap.images.catalog import Catalog
from sharecap.scenes.world import WorldSpec, make_world

PICTURES, BEFORE, AFTER, KILLS = 1000, 10, 20, 5


def spoil(path: Path, how: int) -> None:
    """Break a picture in one of four ways."""
    if how == 0:
        path.unlink()
    elif how == 1:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif how == 2:
        path.write_bytes(b"")
    else:
        path.write_bytes(b"no picture at all\n" * 20)


def count(dataset: Path, state: str) -> int:
    """Requests of this state in the ledger; 0 before there is one."""
    try:
        with sqlite3.connect(f"file:{dataset / 'ledger.sqlite'}?mode=ro", uri=True) as db:
            found = db.execute("SELECT count(*) FROM requests WHERE state = ?", (state,)).fetchone()
            return int(found[0])
    except sqlite3.OperationalError:
        return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    model = parser.parse_args().model.resolve()
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        truths = make_world(root / "world", WorldSpec(seed=9), range(PICTURES))
        files = [root / "world" / truth.file for truth in truths]
        broken = rng.sample(files, BEFORE + AFTER)
        for n, path in enumerate(broken[:BEFORE]):
            spoil(path, 1 + n % 3)
        added = add([root / "world" / "images"], root / "dataset")
        failed = sum(added.failed.values())
        images = {image.path: image.id for image in Catalog.open(root / "dataset")}
        for n, path in enumerate(broken[BEFORE:]):
            spoil(path, n % 4)
        command = [sys.executable, "-m", "sharecap.cli", "caption", str(root / "dataset")]
        command += ["--teacher", f"local:{model}", "--prompts", "unified", "--layer", "own"]
        command += ["--max-tokens", "320"]
        for gate in ("failures", "duplicates", "opening", "boilerplate", "length", "truncations", "canary"):
            command += ["--accept", gate]
        kills = 0
        while kills < KILLS:
            process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            # Captions come in groups, so that the kills fall before, between and within some of them.
            while process.poll() is None and (
                count(root / "dataset", "done") < kills * 150 or not count(root / "dataset", "sent")
            ):
                time.sleep(0.02)
            time.sleep(rng.uniform(0, 1.5))
            assert process.poll() is None, "ended before it could be killed"
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            print(f"killed with {count(root / 'dataset', 'done')} answered", flush=True)
        done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        captions = {caption.image_id for caption in read_layer(root / "dataset", "own")}
        missing = {one.image_id: one.kind for one in read_missing(root / "dataset", "own")}
        spoiled = {images[str(path)] for path in broken[BEFORE:]}
        assert failed == BEFORE, added.failed
        assert captions | missing.keys() == set(images.values())
        assert not captions & missing.keys()
        assert spoiled <= missing.keys(), spoiled - missing.keys()
        figures = {
            "pictures": PICTURES,
            "refused when added": dict(added.failed),
            "captions": len(captions),
            "failures of broken pictures": Counter(missing[image] for image in spoiled),
            "other failures": Counter(kind for image, kind in missing.items() if image not in spoiled),
            "kills": kills,
        }
        print(json.dumps(figures))
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
