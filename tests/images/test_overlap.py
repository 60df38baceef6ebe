"""Overlap with benchmarks: found to the byte and by look, in folders and tables; nothing is passed over."""

import base64
import csv
import io
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sharecap.errors import SharecapError, UsageError
from sharecap.images.add import add
from sharecap.images.catalog import Catalog
from sharecap.images.overlap import Overlap, find_overlap, flagged, stored_overlap

from .test_duplicates import scene


def encoded(image: Image.Image, form: str = "PNG") -> bytes:
    out = io.BytesIO()
    image.save(out, form)
    return out.getvalue()


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Six scenes, as PNG."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(6):
        (folder / f"{seed}.png").write_bytes(encoded(scene(seed)))
    add([folder], tmp_path / "d")
    return tmp_path / "d"


def names(dataset: Path) -> dict[str, str]:
    """File name of each flagged image -> the benchmark's item."""
    paths = {image.id: Path(image.path).name for image in Catalog.open(dataset)}
    return {paths[image]: Path(item).name for image, item in flagged(dataset).items()}


def counts(found: Overlap) -> list[tuple[str, int, int, int, dict[str, int]]]:
    return [(Path(b.benchmark).name, b.images, b.exact, b.near, b.unreadable) for b in found.benchmarks]


def test_folders_are_compared_to_the_byte_and_by_look(dataset: Path, tmp_path: Path) -> None:
    bench = tmp_path / "mme"
    (bench / "color").mkdir(parents=True)
    (bench / "count").mkdir()
    (bench / "color" / "same.png").write_bytes(encoded(scene(0)))
    (bench / "color" / "smaller.jpg").write_bytes(encoded(scene(1, 100), "JPEG"))
    (bench / "count" / "other.png").write_bytes(encoded(scene(77)))
    (bench / "count" / "broken.png").write_bytes(b"\x89PNG no more")
    (bench / "count" / "questions.txt").write_text("How many?")
    found = find_overlap(dataset, [bench])
    assert counts(found) == [("color", 2, 1, 1, {}), ("count", 2, 0, 0, {"not_an_image": 1})]
    assert found.flagged == 2
    assert names(dataset) == {"0.png": "color::same.png", "1.png": "color::smaller.jpg"}
    assert len(found.examples) == 2
    assert "same bytes" in {how for _, _, how in found.examples}


def test_a_benchmark_image_that_cannot_be_decoded_is_still_compared_by_its_bytes(
    dataset: Path, tmp_path: Path
) -> None:
    bench = tmp_path / "bench"
    bench.mkdir()
    whole = encoded(scene(0))
    (bench / "cut.png").write_bytes(whole[: len(whole) // 2])
    assert counts(find_overlap(dataset, [bench])) == [("bench", 1, 0, 0, {"truncated": 1})]


def tsv(path: Path, rows: list[dict[str, str]]) -> Path:
    with open(path, "w", encoding="utf-8", newline="") as f:
        writer = csv.DictWriter(f, list(rows[0]), delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_a_table_of_mmbench_is_read_with_its_repeated_rows(dataset: Path, tmp_path: Path) -> None:
    first, second = (base64.b64encode(encoded(scene(seed))).decode() for seed in (2, 88))
    rows = [
        {"index": "0", "image": first, "question": 'What\nis "this"?', "A": "a", "B": "b", "answer": "A"},
        {"index": "1000000", "image": "0", "question": "What?", "A": "b", "B": "a", "answer": "B"},
        {"index": "1", "image": second, "question": "What?", "A": "a", "B": "b", "answer": "A"},
        {"index": "2", "image": f"['{first}', '{second}']", "question": "", "A": "", "B": "", "answer": ""},
        {"index": "3", "image": "%" * 80, "question": "", "A": "", "B": "", "answer": ""},
    ]
    found = find_overlap(dataset, [tsv(tmp_path / "MMBench_DEV_EN.tsv", rows)])
    assert counts(found) == [("MMBench_DEV_EN.tsv", 5, 1, 0, {"damaged": 1})]
    assert names(dataset) == {"2.png": "MMBench_DEV_EN.tsv::image[0]"}


def test_parquet_columns_of_bytes_structs_and_lists_are_read(dataset: Path, tmp_path: Path) -> None:
    data = {seed: encoded(scene(seed)) for seed in (0, 1, 2, 90)}
    table = pa.table(
        {
            "image": [{"bytes": data[0], "path": "a.png"}, {"bytes": None, "path": "elsewhere.png"}],
            "more": [[data[90], data[1]], []],
            "image_2": [base64.b64encode(data[2]).decode(), ""],
            "question": ["long text, but no image: " * 10, "?"],
        }
    )
    pq.write_table(table, tmp_path / "seed.parquet")
    found = find_overlap(dataset, [tmp_path / "seed.parquet"])
    assert counts(found) == [("seed.parquet", 5, 3, 0, {"missing": 1})]
    assert names(dataset) == {
        "0.png": "seed.parquet::image[0]",
        "1.png": "seed.parquet::more[0]",
        "2.png": "seed.parquet::image_2[0]",
    }


def test_tables_below_a_folder_are_found_and_each_is_reported(dataset: Path, tmp_path: Path) -> None:
    code = base64.b64encode(encoded(scene(3))).decode()
    for name in ("mmbench", "mmbench_cn"):
        (tmp_path / "all" / name).mkdir(parents=True)
        tsv(tmp_path / "all" / name / "dev.tsv", [{"index": "1", "image": code}])
    (tmp_path / "all" / "vqa").mkdir()
    (tmp_path / "all" / "vqa" / "1.png").write_bytes(encoded(scene(4)))
    found = find_overlap(dataset, [tmp_path / "all"])
    assert [(n, e) for n, _, e, _, _ in counts(found)] == [("dev.tsv", 1), ("dev.tsv", 1), ("vqa", 1)]
    assert found.flagged == 2


def test_what_was_found_is_stored_for_the_catalog_and_the_benchmark(dataset: Path, tmp_path: Path) -> None:
    bench = tmp_path / "bench"
    bench.mkdir()
    (bench / "a.png").write_bytes(encoded(scene(0)))
    found = find_overlap(dataset, [bench])
    assert stored_overlap(Catalog.open(dataset)) == found
    written = Path(found.table).stat().st_mtime_ns
    assert find_overlap(dataset, [bench]) == found
    assert Path(found.table).stat().st_mtime_ns == written
    (bench / "b.png").write_bytes(encoded(scene(1)))
    assert find_overlap(dataset, [bench]).flagged == 2


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("gone", None, "no such benchmark"),
        ("empty.tsv", b"", "without images"),
        ("questions.tsv", b"index\tquestion\n1\twhat?\n", "without images"),
        ("noise.parquet", b"PAR1 and no more", "cannot read the table"),
        ("readme.md", b"# words", "not_an_image|no benchmark images|without"),
    ],
)
def test_a_benchmark_without_images_is_one_clear_line(
    dataset: Path, tmp_path: Path, name: str, content: bytes | None, says: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    if name == "readme.md":
        found = find_overlap(dataset, [path])  # a file given by itself is taken for an image
        assert found.benchmarks[0].unreadable == {"not_an_image": 1}
        return
    with pytest.raises(SharecapError, match=says):
        find_overlap(dataset, [path])


def test_an_empty_folder_is_no_benchmark(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(UsageError, match="no benchmark images"):
        find_overlap(dataset, [tmp_path / "none"])


def test_tar_shards_are_read_where_they_lie(dataset: Path, tmp_path: Path) -> None:
    bench = tmp_path / "bench"
    bench.mkdir()
    with tarfile.open(bench / "0.tar", "w") as tar:
        for name, data in (("a.png", encoded(scene(5))), ("b.png", b"no image"), ("a.txt", b"a question")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    for against in (bench, bench / "0.tar"):
        found = find_overlap(dataset, [against])
        assert counts(found) == [("0.tar", 2, 1, 0, {"not_an_image": 1})]
        assert names(dataset) == {"5.png": "0.tar::a.png"}


def test_links_out_of_a_benchmark_are_named_and_not_followed(dataset: Path, tmp_path: Path) -> None:
    bench = tmp_path / "bench"
    bench.mkdir()
    (bench / "a.png").write_bytes(encoded(scene(70)))
    (bench / "b.png").symlink_to(tmp_path / "photos" / "0.png")
    (bench / "c.tsv").symlink_to(tmp_path / "elsewhere.tsv")
    assert counts(find_overlap(dataset, [bench])) == [("bench", 3, 0, 0, {"outside": 2})]
