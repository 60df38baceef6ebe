"""What the page (`web/`) keeps in a dataset, and how an image leaves it all when it is taken down.

view/          the index and thumbnails: a cache, removed whole
review.sqlite  edits, flags and drops by hand
studies/       pairs of captions that people compare, and their votes
scores/        scores of captions, and verdicts on their sentences
"""

import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Set
from contextlib import closing
from pathlib import Path
from typing import Any

from sharecap.artifact import partial_of, write_atomically
from sharecap.errors import SharecapError

VIEW, REVIEW, STUDIES, SCORES = "view", "review.sqlite", "studies", "scores"
STUDY = "study.json"
TAKEN_DOWN = "(taken down)"
"""Stands for both captions of a pair whose image was taken down: the other pairs keep their numbers."""


def forget_in_page_files(dataset: Path, ids: Set[str]) -> int:
    """Remove every word about these images; how many texts, steps and scores there were. May be repeated.

    Votes stay: they hold digests and names of layers, no words.
    """
    if (dataset / VIEW).exists():
        shutil.rmtree(dataset / VIEW)
    gone = _from_review(dataset / REVIEW, ids)
    for path in sorted((dataset / STUDIES).glob(f"*/{STUDY}")):
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            mine = [p for p in facts["pairs"] if p["image_id"] in ids and p["texts"] != [TAKEN_DOWN] * 2]
        except (OSError, ValueError, KeyError, TypeError) as error:
            todo = "remove the study or restore it from a copy, and run the same command again"
            raise SharecapError(f"cannot read a study ({error})", where=path, todo=todo) from None
        for pair in mine:
            pair["texts"] = [TAKEN_DOWN] * 2
        if mine:
            write_atomically(path, json.dumps(facts, ensure_ascii=False, indent=1))
            gone += len(mine)
    for path in sorted((dataset / SCORES).glob("*.jsonl")):
        if path.is_file():
            gone += without_lines(path, lambda line: any(image in line for image in ids))
    return gone


def _from_review(path: Path, ids: Set[str]) -> int:
    if not path.exists():
        return 0
    try:
        with closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as db:
            db.execute("PRAGMA secure_delete = ON")  # the words, not only the way to them
            rows = [(i,) for i in sorted(ids)]
            gone = db.executemany("DELETE FROM steps WHERE image_id = ?", rows).rowcount
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            return gone
    except sqlite3.Error as error:
        todo = "end `sharecap view` and run the same command again"
        raise SharecapError(f"cannot take edits by hand back ({error})", where=path, todo=todo) from None


def without_lines(path: Path, mine: Callable[[str], bool]) -> int:
    """Take the lines that are `mine` out of a file, which is whole at any moment; how many there were."""
    gone, partial = 0, partial_of(path)
    try:
        # What is no UTF-8 stays as it is: the file may be somebody else's.
        how: dict[str, Any] = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}
        with open(path, **how) as old, open(partial, "w", **how) as new:
            for line in old:
                if mine(line):
                    gone += 1
                else:
                    new.write(line)
            new.flush()
            os.fsync(new.fileno())
        if gone:
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return gone
