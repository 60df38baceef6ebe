"""Steps hold the same rows whenever they are asked for, and a bad picture is named with its row."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sharecap.chat.tokenise import Document
from sharecap.data.loading import Step, check_files, steps
from sharecap.errors import SharecapError
from sharecap.images.decode import ImageError, open_rgb


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


def some(first: int, last: int, pack_tokens: int = 12) -> list[Step]:
    return list(
        steps(documents(10), numbered, batch_rows=4, pack_tokens=pack_tokens, seed=0, first=first, last=last)
    )


def test_a_run_that_starts_later_sees_the_same_steps() -> None:
    everything, later = some(0, 8), some(5, 8)
    assert [s.number for s in everything] == list(range(8))
    for one, other in zip(everything[5:], later, strict=True):
        assert one.number == other.number
        for a, b in zip(one.packs, other.packs, strict=True):
            assert torch.equal(a.ids, b.ids)
            assert (a.pixels is None) == (b.pixels is None)


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


def test_an_error_comes_out_where_its_step_is_due_and_names_the_row() -> None:
    def pixels(images: Sequence[str]) -> Tensor:
        if "7.png" in images:
            open_rgb(Path("7.png"))
        return numbered(images)

    stream = steps(documents(10), pixels, batch_rows=1, pack_tokens=12, seed=0, first=0, last=10)
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


def test_missing_and_empty_files_are_counted_before_training(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "good.png").write_bytes(b"x")
    ids, learned = np.ones(2, dtype=np.int32), np.ones(2, dtype=np.bool_)

    def row(name: str, *files: str) -> Document:
        return Document(name, ids, learned, tuple(str(tmp_path / f) for f in files))

    check_files([row("a", "good.png"), row("b", "good.png"), row("c")])
    with pytest.raises(
        SharecapError, match=r"2 of 3 pictures .* first that of row d .file of zero bytes.: .*empty"
    ):
        check_files([row("a", "good.png"), row("d", "empty.png"), row("e", "empty.png", "gone.png")])
