"""Steps hold the same rows whenever they are asked for, and a bad picture is named with its row."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sharecap.chat.templates import PLAIN
from sharecap.chat.tokenise import Cutter, Document
from sharecap.data.check import prepare
from sharecap.data.documents import Documents
from sharecap.data.loading import Step, steps
from sharecap.data.rows import Rows, write_rows
from sharecap.errors import SharecapError
from sharecap.images.decode import ImageError, open_rgb
from sharecap.model.pixels import Pixels
from tests.model.tiny import caption_rows, tiny_llava


def documents(count: int) -> list[Document]:
    made = []
    for i in range(count):
        length = 3 + i % 4
        learned = np.arange(length) > 1
        made.append(
            Document(f"row{i}", np.full(length, i, dtype=np.int32), learned, (f"{i}.png",) if i % 3 else ())
        )
    return made


def numbered(images: Sequence[str]) -> Tensor:
    """Stands for the pictures: each filled with its file's number."""
    return torch.stack([torch.full((3, 2, 2), float(image.split(".")[0])) for image in images])


def some(first: int, last: int, pack_tokens: int = 12, **more: Any) -> list[Step]:
    batch = {"batch_rows": 4} | more
    stream = steps(documents(10), numbered, pack_tokens=pack_tokens, seed=0, first=first, last=last, **batch)
    return list(stream)


def same(some: Sequence[Step], others: Sequence[Step]) -> None:
    """Raise unless the steps are equal to the bit."""
    for a, b in zip(some, others, strict=True):
        assert (a.number, a.tokens, a.learned, a.rows) == (b.number, b.tokens, b.learned, b.rows)
        for p, q in zip(a.packs, b.packs, strict=True):
            assert p.lengths == q.lengths
            for name in ("ids", "predict", "targets", "pixels"):
                x, y = getattr(p, name), getattr(q, name)
                assert (x is y is None) or torch.equal(x, y)


def test_a_run_that_starts_later_sees_the_same_steps() -> None:
    everything, later = some(0, 8), some(5, 8)
    assert [s.number for s in everything] == list(range(8))
    same(everything[5:], later)


@pytest.mark.parametrize(
    "batch",
    [
        {"batch_rows": 4},
        {"batch_rows": None, "batch_tokens": 14},
        {"batch_rows": 4, "grouped": True},
        {"batch_rows": 2, "world": 3, "rank": 2},  # now and then there is nothing for this rank
    ],
)
def test_processes_make_the_same_steps_as_the_thread(batch: dict[str, Any]) -> None:
    state = torch.get_rng_state()
    same(some(2, 9, **batch), some(2, 9, workers=2, **batch))
    assert torch.equal(torch.get_rng_state(), state)


def test_rows_of_a_file_are_cut_and_pictures_decoded_in_processes(tmp_path: Path) -> None:
    llava = tiny_llava(tmp_path)
    write_rows(
        tmp_path / "rows.json", caption_rows(tmp_path / "pictures", [f"It has {n}." for n in range(9)])
    )
    rows = Rows(tmp_path / "rows.json")
    cutter = Cutter(llava.tokenizer, PLAIN, llava.image_tokens)
    kept = prepare(rows, cutter, room=200, quarantine=tmp_path / "q.jsonl").documents
    lazy = Documents(rows, cutter, kept.sizes, kept.digest)
    pixels = Pixels(llava.processor.image_processor, cache_bytes=0)
    settings = {"batch_rows": 4, "pack_tokens": 200, "seed": 0, "first": 0, "last": 5}
    expected = list(steps(kept, pixels, **settings))  # type: ignore[arg-type]
    same(expected, list(steps(lazy, pixels, workers=2, **settings)))  # type: ignore[arg-type]
    assert expected[0].learned == sum(len(p.targets) for p in expected[0].packs)


def test_ranks_share_a_step_and_know_all_of_it() -> None:
    for number, whole in enumerate(some(0, 5)):
        ranks = [some(number, number + 1, rank=rank, world=2)[0] for rank in range(2)]
        assert {(r.tokens, r.learned, r.rows) for r in ranks} == {(whole.tokens, whole.learned, 4)}
        assert sum(len(p.targets) for r in ranks for p in r.packs) == whole.learned
        ids = torch.cat([p.ids for r in ranks for p in r.packs])
        assert torch.equal(ids.sort().values, torch.cat([p.ids for p in whole.packs]).sort().values)


def test_padding_learns_nothing_and_changes_no_target() -> None:
    for step in some(0, 6, pack_tokens=24, grouped=True):
        assert step.learned == sum(len(p.targets) for p in step.packs)
        for p in step.packs:
            assert len(set(p.lengths)) == 1
            assert len(p.ids) == sum(p.lengths)
            rows = p.ids.view(len(p.lengths), -1)
            assert torch.equal(p.targets, p.ids[p.predict + 1])
            assert torch.equal(rows[:, 0], rows[:, -1])  # a document here is one number again and again
            real = [3 + int(row[0]) % 4 for row in rows]
            assert len(p.targets) == sum(n - 2 for n in real)


def test_a_process_that_dies_is_one_clear_error() -> None:
    parent = os.getpid()

    def deadly(images: Sequence[str]) -> Tensor:
        if "7.png" in images and os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return numbered(images)

    with pytest.raises(SharecapError, match=r"a worker process died\. it may have lacked memory"):
        list(steps(documents(10), deadly, batch_rows=4, pack_tokens=12, seed=0, first=0, last=5, workers=2))


def test_a_steps_rows_do_not_depend_on_how_they_are_packed() -> None:
    for loose, tight in zip(some(0, 5, 100), some(0, 5, 6), strict=True):
        assert len(loose.packs) == 1
        assert len(tight.packs) > 1
        assert (loose.tokens, loose.learned) == (tight.tokens, tight.learned)
        ids = torch.cat([p.ids for p in tight.packs])
        assert torch.equal(ids.sort().values, loose.packs[0].ids.sort().values)


def test_pictures_stand_in_the_order_of_their_documents() -> None:
    for step in some(0, 5):
        for pack in step.packs:
            rows = [int(part[0]) for part in pack.ids.split(pack.lengths)]
            with_picture = [row for row in rows if row % 3]
            assert (pack.pixels is None) == (not with_picture)
            if pack.pixels is not None:
                assert pack.pixels[:, 0, 0, 0].tolist() == with_picture


def test_no_steps_are_left_of_a_finished_run() -> None:
    assert some(8, 8) == []


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_comes_out_where_its_step_is_due_and_names_the_row(workers: int) -> None:
    def pixels(images: Sequence[str]) -> Tensor:
        if "7.png" in images:
            open_rgb(Path("7.png"))
        return numbered(images)

    stream = steps(
        documents(10), pixels, batch_rows=1, pack_tokens=12, seed=0, first=0, last=10, workers=workers
    )
    seen = []
    with pytest.raises(ImageError, match=r"no such file .row row7.: 7\.png") as caught:
        seen.extend(int(step.packs[0].ids[0]) for step in stream)
    assert caught.value.reason == "missing"
    assert 7 not in seen
    assert [*seen, 7] == [
        int(s.packs[0].ids[0])
        for s in steps(
            documents(10), numbered, batch_rows=1, pack_tokens=12, seed=0, first=0, last=len(seen) + 1
        )
    ]
