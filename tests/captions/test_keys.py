"""The request key: equal for the same question about the same bytes, different for anything else."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharecap.captions.captioner import Sampling
from sharecap.captions.keys import request_key

BASE = {
    "image_id": "a" * 64,
    "preparation": "original",
    "prompt": "Describe it.",
    "model": "m",
    "sampling": Sampling(),
}


def test_the_key_is_the_same_in_every_process_and_version() -> None:
    assert request_key(**BASE).hex().startswith("8b6f31934ad83c54")


@pytest.mark.parametrize("part", ["image_id", "preparation", "prompt", "model"])
def test_any_other_part_is_another_request(part: str) -> None:
    assert request_key(**{**BASE, part: "x"}) != request_key(**BASE)


@pytest.mark.parametrize("part", ["max_tokens", "temperature", "top_p", "seed"])
def test_any_other_sampling_is_another_request(part: str) -> None:
    other = replace(Sampling(), **{part: 1})
    assert request_key(**{**BASE, "sampling": other}) != request_key(**BASE)


@given(st.text(), st.text(), st.text())
def test_moving_a_border_between_parts_changes_the_key(a: str, b: str, c: str) -> None:
    one = request_key(a + b, c, "p", "m", Sampling())
    other = request_key(a, b + c, "p", "m", Sampling())
    assert (one == other) == (b == "")
