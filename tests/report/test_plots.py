"""What the plots draw, and what they leave to the page."""

import re
import xml.etree.ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from sharecap.report.document import Plot, Series
from sharecap.report.plots import DASHES, POINTS, draw, looks, thinned


def plot(*series: Series, title: str = "Loss") -> Plot:
    return Plot(title, series, "step", "loss")


LINE = Series("a", (0, 1, 2), (3, 2, 1))


def test_a_plot_holds_no_style_attribute_no_colour_and_no_word():
    svg = draw(plot(LINE, Series("b", (0, 1), (1, 2), emphasis=True)), looks([plot(LINE)]) | BOTH, 0)
    assert "style" not in svg
    assert "#0000" not in svg
    assert set(re.findall(r'(?:fill|stroke)="([^"]*)"', svg)) == {"none"}
    assert "step" not in svg
    assert 'class="stroke-accent"' in svg
    assert ET.fromstring(svg).tag == "svg"


BOTH = looks([plot(Series("b", (), (), emphasis=True))])


def test_the_same_plot_is_the_same_bytes_and_no_identifier_is_on_the_page_twice():
    dot = plot(Series("a", (1,), (1,)))
    look = looks([dot])
    first, second = draw(dot, look, 0), draw(dot, look, 1)
    assert first == draw(dot, look, 0)
    ids = re.findall(r' id="([^"]+)"', first + second)
    assert ids
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:url\(|href=")#([^")]+)', first + second)) <= set(ids)


def test_a_line_looks_the_same_in_every_plot():
    first = plot(Series("none", (), ()), Series("short", (), ()), Series("detailed", (), (), emphasis=True))
    second = plot(Series("short", (), ()), Series("other", (), ()))
    found = looks([first, second])
    assert [found[n].dashes for n in ("none", "short", "other")] == list(DASHES[:3])
    assert found["detailed"].css_class == "accent"


def test_without_a_finite_point_nothing_is_drawn():
    nothing = plot(Series("a", (0, 1), (float("nan"), float("inf"))), Series("b", (), ()))
    assert draw(nothing, looks([nothing]), 0) == ""


def test_a_title_with_formulas_and_control_characters_is_only_a_title():
    odd = plot(LINE, title='$\\frac{ "<b>\x00')
    label = ET.fromstring(draw(odd, looks([odd]), 0)).attrib["aria-label"]
    assert label == '$\\frac{ "<b> '


@given(st.lists(st.floats(-1e3, 1e3), max_size=600))
def test_thinning_keeps_few_points_and_the_mean(ys):
    _, thin, size = thinned(range(len(ys)), ys)
    assert len(thin) <= POINTS
    if size == 1:
        assert thin == ys
    elif len(ys) % size == 0:
        assert abs(sum(thin) / len(thin) - sum(ys) / len(ys)) < 1e-6
