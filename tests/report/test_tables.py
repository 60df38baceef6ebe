"""How numbers are written, and where whiskers stand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharecap.report.document import Interval, Number, Table
from sharecap.report.tables import dollars, duration, lay_out, number


@pytest.mark.parametrize(
    ("value", "digits", "signed", "text"),
    [
        (1234.56, 1, False, "1,234.6"),
        (-0.04, 1, True, "0.0"),
        (0.04, 1, True, "0.0"),
        (-1.25, 2, True, "\N{MINUS SIGN}1.25"),
        (3, 0, True, "+3"),
        (None, 1, False, "n/a"),
        (math.nan, 1, False, "n/a"),
        (math.inf, 1, True, "n/a"),
    ],
)
def test_a_number_is_written_for_people_and_never_invented(value, digits, signed, text):
    assert number(value, digits, signed=signed) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.7, "1 h 00 min"),
        (7800, "2 h 10 min"),
        (None, "n/a"),
    ],
)
def test_a_duration_is_written_in_the_unit_that_suits_it(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("usd", "text"),
    [(0, "$0.00"), (0.0123, "$0.0123"), (1.2345, "$1.23"), (12345.678, "$12,345.68"), (None, "n/a")],
)
def test_a_caption_for_a_tenth_of_a_cent_does_not_cost_nothing(usd, text):
    assert dollars(usd) == text


def test_a_column_is_set_by_what_it_holds():
    table = Table(("a", "b", "c", "d"), (("x", 1, Interval(1, 0, 2), None), ("y", Number(None), None, None)))
    assert lay_out(table).kinds == ("words", "number", "interval", "words")


def test_a_score_that_could_not_be_computed_is_neither_a_number_nor_a_whisker():
    row = (Number(None), Interval(None), Interval(math.nan, 0, 1), Interval(1, 0, math.inf), None)
    (cells,) = lay_out(Table(tuple("abcde"), (row,))).rows
    assert [cell.text for cell in cells] == ["n/a", "n/a", "n/a", "n/a", "\N{EN DASH}"]
    assert all(cell.whisker is None and cell.status == "" for cell in cells)


def test_a_difference_is_coloured_only_when_its_interval_excludes_zero():
    rows = tuple((Interval(value, value - 1, value + 1),) for value in (3, -3, 0.5))
    assert [row[0].status for row in lay_out(Table(("d",), rows)).rows] == ["good", "bad", "unclear"]
    touching = Table(("d",), ((Interval(1, 0, 2),),))
    assert lay_out(touching).rows[0][0].status == "unclear"


def test_an_absolute_score_has_neither_sign_nor_colour_nor_zero_line():
    (cell,) = lay_out(Table(("s",), ((Interval(71.3, 70, 73, difference=False),),))).rows[0]
    assert (cell.text, cell.detail, cell.status) == ("71.3", "70.0 to 73.0", "")
    assert cell.whisker is not None
    assert cell.whisker.zero is None


values = st.floats(-1e6, 1e6)
triples = st.tuples(values, values, values).map(sorted)


@given(st.lists(st.tuples(triples, st.booleans()), min_size=1, max_size=6))
def test_whiskers_keep_order_and_stay_inside_and_share_one_scale(cells):
    rows = tuple((Interval(mid, low, high, difference=diff),) for (low, mid, high), diff in cells)
    drawn = [row[0].whisker for row in lay_out(Table(("d",), rows)).rows]
    zeros = {whisker.zero for whisker in drawn if whisker.zero is not None}
    assert len(zeros) <= 1
    assert all(0 <= w.low <= w.value <= w.high <= 100 for w in drawn)
    assert all(0 <= zero <= 100 for zero in zeros)


def test_a_row_that_does_not_fit_its_columns_is_refused():
    with pytest.raises(AssertionError, match="1 cells under 2 columns"):
        Table(("a", "b"), (("x",),))
