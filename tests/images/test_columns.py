"""Columns are what Arrow makes of the same lists, and need no pandas."""

import subprocess
import sys

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from sharecap.images.columns import integers, reals, text_lists, texts

words = st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=40)


@settings(deadline=None)
@given(words, st.lists(words, max_size=9))
def test_texts_and_lists_of_texts_are_what_arrow_makes_of_them(
    some: list[str], lists: list[list[str]]
) -> None:
    for made, values in ((texts(some), some), (text_lists(lists), lists)):
        made.validate(full=True)
        assert made.equals(pa.array(values, made.type))
        assert made.to_pylist() == values


@settings(deadline=None)
@given(
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=40),
    st.lists(st.none() | st.floats(allow_nan=False), max_size=40),
)
def test_numbers_are_what_arrow_makes_of_them(whole: list[int], some: list[float | None]) -> None:
    for made, values in ((integers(whole), whole), (reals(some), some)):
        made.validate(full=True)
        assert made.equals(pa.array(values, made.type))
        assert made.null_count == values.count(None)


def test_pandas_is_not_asked_where_it_is_installed() -> None:
    code = (
        "import sys; from sharecap.images.columns import *; "
        "texts(['a']), text_lists([['a']]), integers([1]), reals([None, 1.0]); "
        "assert 'pandas' not in sys.modules; "
        "import pyarrow; pyarrow.array(['a']); assert 'pandas' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
