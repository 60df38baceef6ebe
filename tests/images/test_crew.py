"""The processes that look at images: one that hangs or dies costs one image, and nothing waits for it."""

import io
import os
import signal
import time
from pathlib import Path

import pytest
from PIL import Image as Picture

from sharecap.images import crew as crews
from sharecap.images.add import add
from sharecap.images.candidate import Candidate, Failure, Known
from sharecap.images.catalog import Catalog
from sharecap.images.crew import MANY, Crew, Result
from sharecap.images.failures import failures_of
from sharecap.records import Image

from .test_decode import encoded, picture


def slow_jpeg(scans: int = 4000, side: int = 6000) -> bytes:
    """A whole, small JPEG whose decoder goes over the picture thousands of times."""
    buffer = io.BytesIO()
    Picture.new("L", (side, side), 90).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * scans + b"\xff\xd9"


@pytest.fixture
def files(tmp_path: Path) -> list[Candidate]:
    found = []
    for i in range(12):
        path = tmp_path / f"{i:02}.png"
        path.write_bytes(encoded("PNG", picture(seed=i)))
        found.append(Candidate(str(path), "s"))
    return found


def test_an_image_that_takes_too_long_is_one_failure_and_the_others_are_taken(
    tmp_path: Path, files: list[Candidate]
) -> None:
    (tmp_path / "05a.jpg").write_bytes(slow_jpeg())
    clock = time.monotonic()
    report = add([tmp_path], tmp_path / "d", limit_s=1.0)
    assert (report.added, report.failed) == (len(files), {"timeout": 1})
    (failure,) = failures_of(tmp_path / "d")
    assert (failure.path, failure.what) == (str(tmp_path / "05a.jpg"), "not read and decoded within 1 s")
    assert time.monotonic() - clock < 60  # and not the minutes that the picture takes
    names = [Path(image.path).name for image in Catalog.open(tmp_path / "d")]
    assert names == sorted(names)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV])
def test_a_worker_that_dies_costs_the_image_that_it_was_at(
    tmp_path: Path, files: list[Candidate], how: signal.Signals
) -> None:
    slow = Candidate(str(tmp_path / "slow.jpg"), "s")
    Path(slow.path).write_bytes(slow_jpeg())
    crew, results = Crew(cores=1), list[Result]()
    for result in crew.results([files[0], slow, *files[1:]]):
        if not results:  # the first is known, so the worker is at the slow one
            os.kill(crew._workers[0].process.pid, how)
        results.append(result)
    assert [r.path for r in results] == [files[0].path, slow.path, *(c.path for c in files[1:])]
    (failure,) = (r for r in results if isinstance(r, Failure))
    what = f"the decoder died ({how.name})"
    assert (failure.path, failure.reason, failure.what) == (slow.path, "crashed", what)


def test_results_come_in_order_from_many_workers_with_bytes_or_without(tmp_path: Path) -> None:
    datas = [encoded("PNG", picture(seed=i)) for i in range(MANY + 60)]
    wanted = []
    for i, data in enumerate(datas):
        path = tmp_path / f"{i}.png"
        path.write_bytes(data)
        inside = {"member": f"image[{i}]", "data": data} if i % 2 else {}
        bad = ("outside", "no") if i % 50 == 7 else None
        wanted.append(Candidate(str(path), "s", bad, **inside))  # type: ignore[arg-type]
    results = list(Crew(cores=3).results(wanted))
    assert [r.path.partition("::")[0] for r in results] == [c.path for c in wanted]
    assert sum(isinstance(r, Failure) for r in results) == len([c for c in wanted if c.problem])


def test_what_is_known_is_not_decoded_again(tmp_path: Path, files: list[Candidate]) -> None:
    first = [r for r in Crew().results(files) if isinstance(r, Image)]
    digests = sorted(bytes.fromhex(image.id) for image in first[:5])
    (tmp_path / "known").write_bytes(b"".join(digests))
    again = list(Crew(known=tmp_path / "known").results(files))
    assert [isinstance(r, Known) for r in again] == [True] * 5 + [False] * 7


def test_large_pictures_pass_whole_through_the_pipe() -> None:
    data = encoded("BMP", picture(1500, 1500))
    wanted = [Candidate("x.parquet", "s", member=f"image[{i}]", data=data) for i in range(6)]
    results = list(Crew(limit_s=5.0).results(wanted))
    assert [r.bytes for r in results if isinstance(r, Image)] == [len(data)] * 6


def test_time_that_the_reader_takes_is_no_workers_fault(files: list[Candidate]) -> None:
    crew = Crew(limit_s=2.0, cores=1)
    results = []
    for result in crew.results(files):
        results.append(result)
        for worker in crew._workers:  # as if the reader had been away for an hour
            worker.since -= 3600
        crew._left -= 3600
    assert all(isinstance(result, Image) for result in results)


def test_a_worker_that_cannot_start_is_one_clear_error(
    monkeypatch: pytest.MonkeyPatch, files: list[Candidate]
) -> None:
    crews._dismiss()
    monkeypatch.setenv("PYTHONHOME", "/no/where")
    with pytest.raises(crews.SharecapError, match="doesn't start"):
        list(Crew().results(files))


def test_no_worker_outlives_its_work(files: list[Candidate]) -> None:
    crew = Crew(cores=2)
    results = crew.results(files)
    next(results)
    processes = [worker.process for worker in crew._workers]
    results.close()
    crews._dismiss()
    assert all(process.poll() is not None for process in processes)
