"""The report in a real browser: nothing blocked, nothing loaded, no script run, no sideways scrolling."""

import os
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from sharecap.report.document import Section
from sharecap.report.html import write_report
from tests.report import example
from tests.report.test_html import HOSTILE, with_caption

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        # Chromium's sandbox refuses to start for root, as which containers run.
        sandbox = [] if os.getuid() else ["--no-sandbox"]
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=[*QUIET, *sandbox])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """The example, with every hostile caption added to it."""
    page = example.report()
    hostile = tuple(block for text in HOSTILE for s in with_caption(text).sections for block in s.blocks)
    sections = (*page.sections, Section("Hostile <b>captions</b>", hostile))
    path = tmp_path_factory.mktemp("report") / "report.html"
    return write_report(type(page)(page.title, page.lead, page.facts, sections), path)


def visit(browser: Browser, report: Path, width: int, scheme: str) -> tuple[Page, list[str]]:
    """Open the report; returns the page and all that the browser complained about or asked for."""
    page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
    seen: list[str] = []
    page.on("console", lambda message: seen.append(message.text))
    page.on("pageerror", lambda error: seen.append(str(error)))
    page.on("dialog", lambda dialog: seen.append(dialog.message))
    page.on("request", lambda request: seen.append(request.url))
    page.goto(report.as_uri())
    return page, [line for line in seen if not line.startswith(("data:", report.as_uri()))]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1200])
def test_the_report_opens_without_a_complaint_and_fits_the_screen(browser, report, width, scheme):
    page, seen = visit(browser, report, width, scheme)
    assert seen == []
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert page.locator(".gallery b, .gallery script").count() == 0
    assert page.get_by_role("heading", name="Hostile <b>captions</b>").is_visible()
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(int(part) for part in background[4:-1].split(",")) / 3
    assert (brightness > 128) == (scheme == "light")


def test_the_policy_stops_a_script_that_got_in(browser, report, tmp_path):
    broken = tmp_path / "broken.html"
    script = "<script>document.title = 'taken'</script><p style='color: red' id='styled'>x</p>"
    broken.write_text(
        report.read_text(encoding="utf-8").replace("</main>", script + "</main>"), encoding="utf-8"
    )
    page, seen = visit(browser, broken, 1200, "light")
    assert page.title() != "taken"
    assert page.evaluate("getComputedStyle(document.getElementById('styled')).color") != "rgb(255, 0, 0)"
    assert sum("Content Security Policy" in line for line in seen) == 2
