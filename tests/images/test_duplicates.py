"""Near-duplicates: exactly the pairs that a comparison of all with all finds, wherever the hashes lie."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sharecap.errors import UsageError
from sharecap.images import hamming
from sharecap.images.add import add
from sharecap.images.catalog import Catalog
from sharecap.images.duplicates import cluster, copies, find_duplicates, stored_duplicates
from sharecap.images.hamming import Words, components, distance, pairs_between, words_of

Seeds = st.integers(0, 2**32 - 1)


def crowd(seed: int, count: int, free_bits: int) -> Words:
    """Hashes that agree in all but some bits, as those of similar pictures do; many are near each other."""
    draw = np.random.default_rng(seed)
    mask = np.uint64(sum(1 << int(bit) for bit in draw.choice(64, free_bits, replace=False)))
    free = draw.integers(0, 2**64, count, dtype=np.uint64) & mask
    return free | (np.uint64(draw.integers(0, 2**64, dtype=np.uint64)) & ~mask)


def with_near_copies(seed: int, words: Words, most: int) -> Words:
    """`words`, and for each one a copy in which up to `most` bits are flipped."""
    draw = np.random.default_rng(seed)
    copies = words.copy()
    for place in range(len(copies)):
        for bit in draw.choice(64, draw.integers(0, most + 1), replace=False):
            copies[place] ^= np.uint64(1 << int(bit))
    return np.concatenate([words, copies])


def brute_components(words: Words, bits: int) -> list[int]:
    """Flood fill over all pairs."""
    labels = [-1] * len(words)
    for start in range(len(words)):
        waiting = [start] if labels[start] < 0 else []
        labels[start] = start if waiting else labels[start]
        while waiting:
            for other in np.flatnonzero(distance(words, words[waiting.pop()]) <= bits).tolist():
                if labels[other] < 0:
                    labels[other] = start
                    waiting.append(other)
    return labels


@settings(max_examples=60, deadline=None)
@given(Seeds, st.integers(0, 150), st.integers(1, 64), st.integers(0, 8), st.sampled_from([2, 8, 256]))
def test_components_are_those_of_all_pairs(seed: int, count: int, free: int, bits: int, small: int) -> None:
    words = np.unique(with_near_copies(seed, crowd(seed, count, free), bits + 1))
    before, hamming.SMALL = hamming.SMALL, small  # so that few words are cut into bands again and again
    try:
        assert components(words, bits).tolist() == brute_components(words, bits)
    finally:
        hamming.SMALL = before


@settings(max_examples=40, deadline=None)
@given(Seeds, st.integers(0, 80), st.integers(0, 40), st.integers(1, 64), st.integers(0, 8))
def test_pairs_between_two_sets_are_all_of_them(seed: int, m: int, n: int, free: int, bits: int) -> None:
    left = crowd(seed, m, free)
    right = np.unique(with_near_copies(seed + 1, left[:n], bits + 1)) if n else crowd(seed, n, 64)
    left = np.unique(left)
    i, j = pairs_between(left, right, bits)
    near = distance(left[None, :], right[:, None]) <= bits
    expected = [(b, a) for a, b in np.argwhere(near).tolist()]
    assert list(zip(i.tolist(), j.tolist(), strict=True)) == expected


@settings(max_examples=40, deadline=None)
@given(Seeds, st.integers(1, 120), st.integers(1, 64), st.integers(0, 6))
def test_every_image_has_a_kept_one_within_the_bound(seed: int, count: int, free: int, bits: int) -> None:
    words = with_near_copies(seed, crowd(seed, count, free), bits)
    rank = np.random.default_rng(seed).permutation(len(words))
    found = cluster(words, rank, bits)
    assert (distance(words[found.members], words[found.kept]) == found.distance).all()
    assert (found.distance <= bits).all()
    stays = set(found.kept.tolist())
    assert all(found.kept[found.members == kept] == kept for kept in stays)
    assert (rank[found.kept] <= rank[found.members]).all()
    # Who is in no cluster is near nobody, and two that stay are not near each other.
    alone = np.setdiff1d(np.arange(len(words)), found.members)
    for place in [*alone.tolist(), *stays]:
        others = alone if place in stays else np.arange(len(words))
        near = set(others[distance(words[others], words[place]) <= bits].tolist()) - {place}
        assert not near
        assert not {s for s in stays - {place} if (words[s] ^ words[place]).bit_count() <= bits}


def test_a_hundred_thousand_blank_images_and_dense_crowds_are_no_quadratic_work() -> None:
    blank = np.full(100_000, 0xF0F0F0F0F0F0F0F0, np.uint64)
    dense = np.arange(2**17, dtype=np.uint64)  # every one has 17 neighbours a bit away
    words = np.concatenate([blank, dense])
    found = cluster(words, np.arange(len(words)), 4)
    assert np.bincount(found.cluster).tolist() == [100_000, 2**17]
    assert set(found.kept[:100_000].tolist()) == {0}


def test_a_chain_of_small_steps_keeps_more_than_one() -> None:
    words = np.array([0b0, 0b11, 0b1111, 0b111111], np.uint64)
    found = cluster(words, np.arange(4), 2)
    assert found.cluster.tolist() == [0, 0, 0, 0]
    assert found.kept.tolist() == [0, 0, 2, 2]


@pytest.mark.parametrize("text", ["", "00", "zz00000000000000", "000000000000000é", "0" * 17])
def test_what_is_no_hash_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="16 hex digits"):
        words_of([text])


def test_hex_digits_become_the_words_that_they_spell() -> None:
    assert words_of(["0123456789abcdef", "f" * 16]).tolist() == [0x0123456789ABCDEF, 2**64 - 1]
    assert len(words_of([])) == 0


def scene(seed: int, size: int = 128) -> Image.Image:
    """A picture with large shapes, whose hash survives rescaling."""
    levels = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(levels).resize((size, size), Image.Resampling.BICUBIC)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Four scenes; the first lies there in three sizes."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(4):
        scene(seed).save(folder / f"{seed}.png")
    scene(0, 256).save(folder / "large.png")
    scene(0, 96).save(folder / "small.jpg", quality=80)
    add([folder], tmp_path / "d")
    return tmp_path / "d"


def test_the_largest_of_a_cluster_is_kept_and_the_others_are_named(dataset: Path) -> None:
    found = find_duplicates(dataset)
    assert (found.images, found.clusters, found.duplicates, found.largest) == (6, 1, 2, 3)
    paths = {image.id: Path(image.path).name for image in Catalog.open(dataset)}
    stays = {paths[copy]: paths[kept] for copy, kept in copies(dataset).items()}
    assert stays == {"0.png": "large.png", "small.jpg": "large.png"}
    assert {Path(kept).name for _, kept in found.examples} == {"large.png"}
    table = pq.read_table(found.table)
    assert table.column_names == ["image_id", "cluster", "kept", "distance"]
    assert table.num_rows == 3


def test_clusters_belong_to_the_catalog_that_they_were_found_in(dataset: Path, tmp_path: Path) -> None:
    found = find_duplicates(dataset)
    written = Path(found.table).stat().st_mtime_ns
    assert find_duplicates(dataset) == found
    assert Path(found.table).stat().st_mtime_ns == written
    assert stored_duplicates(Catalog.open(dataset)) == found
    scene(9).save(tmp_path / "photos" / "new.png")
    add([tmp_path / "photos"], dataset)
    assert stored_duplicates(Catalog.open(dataset)) is None
    assert find_duplicates(dataset).images == 7
    manifest = json.loads((dataset / "duplicates" / "manifest.json").read_text())
    assert manifest["inputs"] == {"catalog": Catalog.open(dataset).digest}


def test_another_bound_is_another_search(dataset: Path) -> None:
    assert find_duplicates(dataset, bits=4).duplicates == 2
    assert find_duplicates(dataset, bits=0).bits == 0
    for bits in (-1, 11):
        with pytest.raises(UsageError, match="0 to 10 bits"):
            find_duplicates(dataset, bits)
