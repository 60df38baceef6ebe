"""The page in a real browser: tasks by keyboard, nothing blocked or logged, accessible, light and dark."""

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from sharecap.captions.layer import read_layer
from sharecap.captions.running import Running, noted
from sharecap.web.study import create, open_study, votes

from .conftest import Server, captioned, serving
from .speaker import WORDS, speaking

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = ["--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update"]
AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        sandbox = [] if os.getuid() else ["--no-sandbox"]  # it refuses to start for root
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=[*QUIET, *sandbox])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two layers of 150 images, two training runs of which one goes on, one captioning run."""
    folder = tmp_path_factory.mktemp("page")
    dataset, runs = captioned(folder, 150), folder / "runs"
    for name, loss in (("first", 2.0), ("second", 1.5)):
        (runs / name).mkdir(parents=True)
        lines = [{"step": n, "loss": loss / n, "tokens_per_s": 900.0 + n} for n in range(1, 40)]
        (runs / name / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with serving(dataset, runs=[runs]) as running:
        yield running


class Visit:
    """A browser window of its own, and all that the browser complained about in it."""

    def __init__(self, browser: Browser, server: Server, *, width: int = 1200, scheme: str = "light") -> None:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        context.set_default_timeout(20_000)
        self.page: Page = context.new_page()
        self.url, self.seen = server.url, list[str]()
        self.page.on("console", lambda message: self.seen.append(message.text))
        self.page.on("pageerror", lambda error: self.seen.append(str(error)))
        self.page.on("dialog", lambda dialog: self.seen.append(dialog.message))
        self.page.on(
            "request",
            lambda request: self.seen.append(request.url) if not request.url.startswith(self.url) else None,
        )

    def go(self, path: str) -> Page:
        """Open a page and wait until it is there."""
        self.page.goto(self.url + path)
        return self.page

    def violations(self) -> list[str]:
        """What axe-core finds serious on the page as it is."""
        self.page.evaluate(AXE)
        found = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        return [
            f"{one['id']}: {[node['html'] for node in one['nodes']]}"
            for one in found["violations"]
            if one["impact"] in ("serious", "critical")
        ]


@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 360)])
def test_every_page_is_accessible_quiet_and_fits_the_screen(
    browser: Browser, server: Server, scheme: str, width: int
) -> None:
    name = f"look-{scheme}"
    study = create(server.room.dataset, name, ["teacher", "captioner"], ["ann"], images=3, repeats=1)
    image = server.room.index.image(4)
    assert image
    visit = Visit(browser, server, width=width, scheme=scheme)
    link = next(iter(study.raters))
    paths = ["/?layer=teacher", f"/image/{image.id}?layer=teacher", "/studies", f"/studies/{name}"]
    for path in [*paths, f"/rate/{link}", "/runs", f"/ask?image={image.id}"]:
        page = visit.go(path)
        assert visit.violations() == [], path
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        brightness = sum(
            map(int, page.evaluate("getComputedStyle(document.body).backgroundColor")[4:-1].split(","))
        )
        assert (brightness > 384) == (scheme == "light")
    page = visit.go("/?layer=teacher")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    assert visit.violations() == []
    assert visit.seen == []


def test_the_gallery_scrolls_searches_and_opens_by_keyboard(browser: Browser, server: Server) -> None:
    visit = Visit(browser, server)
    page = visit.go("/?layer=teacher")
    assert page.locator(".found b").inner_text() == "150"
    assert page.locator(".card").count() == 60
    for _ in range(40):
        page.mouse.wheel(0, 3000)
        page.wait_for_timeout(30)
        if page.locator(".page").count() == 3:
            break
    assert page.locator(".page").count() == 3
    page.wait_for_function("[...document.querySelectorAll('.page')].at(-1).childElementCount === 30")
    page.keyboard.press("/")
    page.keyboard.type('"red hat"')
    page.keyboard.press("Enter")
    expect(page.locator(".found b")).to_have_text("50")
    assert all("red hat" in text for text in page.locator(".caption").all_inner_texts())
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url("**/image/**")
    assert server.room.index.image(3).id in page.url
    page.keyboard.press("n")
    page.wait_for_url(f"**/{server.room.index.image(6).id}*")
    page.keyboard.press("g")
    expect(page.locator(".found b")).to_have_text("50")
    page.get_by_label("Order").select_option("longest")
    page.wait_for_url("**order=longest**")
    assert visit.seen == []


def test_pages_far_away_are_emptied_and_come_back(browser: Browser, server: Server) -> None:
    visit = Visit(browser, server, width=360)
    page = visit.go("/?layer=teacher")
    for _ in range(80):
        page.mouse.wheel(0, 4000)
        page.wait_for_timeout(20)
        if page.locator(".page").count() == 3:
            break
    page.wait_for_function("document.querySelector('.page').childElementCount === 0")
    page.evaluate("window.scrollTo(0, 0)")
    page.wait_for_function("document.querySelector('.page').childElementCount === 60")
    assert visit.seen == []


def test_differences_are_marked_and_an_edit_is_made_undone_and_sealed_by_keyboard(
    browser: Browser, server: Server
) -> None:
    image = server.room.index.image(0)
    assert image
    visit = Visit(browser, server)
    page = visit.go(f"/image/{image.id}?layer=teacher")
    other = page.get_by_label("Layer captioner")
    assert other.locator("del").first.inner_text() == "red"
    assert other.locator("ins").first.inner_text() == "blue"
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    expect(page.locator("textarea")).to_be_focused()
    page.keyboard.press("Control+A")
    page.keyboard.type("She wears a <b>green</b> hat.")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_label("Layer teacher").locator("ins")).to_have_text(["She", "<b>green</b>"])
    expect(page.get_by_label("Layer teacher").locator("del")).to_have_text(["He", "red"])
    assert page.locator("b", has_text="green").count() == 0
    page.keyboard.press("x")
    expect(page.get_by_label("Layer teacher").get_by_text("dropped by hand")).to_be_visible()
    page.keyboard.press("u")
    expect(page.get_by_label("Layer teacher").get_by_text("dropped by hand")).to_have_count(0)
    page.keyboard.press("f")
    expect(page.get_by_label("Layer teacher").get_by_text("check", exact=True)).to_be_visible()
    visit.go("/?layer=teacher&state=marked")
    assert page.locator(".card").count() == 1
    page.get_by_label("Make a new layer").fill("mended")
    page.keyboard.press("Enter")
    expect(page.get_by_text("is made")).to_be_visible()
    made = next(iter(read_layer(server.room.dataset, "mended")))
    assert made.text.startswith("A man waves. She wears a <b>green</b> hat.")
    assert made.flags == ("check", "edited")
    assert next(iter(read_layer(server.room.dataset, "teacher"))).text.startswith("A man waves. He wears")
    assert visit.seen == []


def test_a_whole_study_is_held_by_keyboard_and_resumed_by_another_window(
    browser: Browser, server: Server
) -> None:
    visit = Visit(browser, server)
    page = visit.go("/studies")
    page.get_by_label("Name").fill("kept")
    page.get_by_label("First layer").select_option("teacher")
    page.get_by_label("Second layer").select_option("captioner")
    page.get_by_label("Images").fill("6")
    page.get_by_label("Shown twice").fill("2")
    page.get_by_label("Raters").fill("ann\nbob")
    page.get_by_role("button", name="Draw the study").click()
    page.wait_for_url("**/studies/kept")
    study = open_study(server.room.dataset, "kept")
    for token, rater in study.raters.items():
        mine = Visit(browser, server)
        shown = mine.go(f"/rate/{token}")
        trials = study.trials(rater)
        assert len(trials) == 8
        for number, trial in enumerate(trials):
            expect(shown.get_by_role("status").first).to_contain_text(f"Question {number + 1} of 8")
            text = shown.content()
            assert "teacher" not in text
            assert "captioner" not in text
            if number == 3:  # another window goes on where this one was
                shown = mine.go(f"/rate/{token}")
            teacher = "1" if study.pairs[trial.pair].layers[trial.left] == "teacher" else "2"
            shown.keyboard.press("0" if number == 2 else teacher)
        expect(shown.get_by_role("heading", level=1)).to_have_text("Thank you")
        assert mine.seen == []
    cast = votes(study)
    assert len(cast) == 16
    assert {v.left if v.choice == "left" else v.right for v in cast if v.choice != "tie"} == {"teacher"}
    assert sum(v.choice == "tie" for v in cast) == 2
    visit.go("/studies/kept")
    expect(page.get_by_role("region", name="Results").first).to_contain_text("teacher")
    assert visit.seen == []


def test_runs_are_live_without_a_reload(browser: Browser, server: Server) -> None:
    from sharecap.captions.ledger import connect

    visit = Visit(browser, server)
    page = visit.go("/runs")
    curves = page.get_by_role("img", name="loss per learned token, 39 steps")
    assert curves.locator("polyline").count() == 2
    dataset, done = server.room.dataset, threading.Event()
    db = connect(dataset / "ledger.sqlite")

    def book(number: int, state: str, kind: str | None) -> None:
        row = (
            number.to_bytes(4, "big"),
            "0" * 64,
            "big",
            "p@1/all",
            state,
            0.25,
            kind,
            "no\n<b>words</b>",
            time.time(),
        )
        with db:
            db.execute(
                "INSERT INTO requests (key, image_id, model, prompt_id, state, cost_usd, error_kind, error, "
                "changed_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                row,
            )

    run = Running("teacher", "big", "p@1/", 150, 0, 10.0, time.time())
    page.evaluate("window.kept = 1")
    with noted(dataset, run):
        for number in range(30):
            book(number, "done", None)
        book(30, "failed", "refusal")
        section = page.get_by_label("Captioning teacher")
        expect(section).to_contain_text("running")
        expect(section).to_contain_text("of $10.0000 budget")
        expect(section).to_contain_text("refusals 3.2 % (closes above 20 %)")
        expect(section.get_by_role("row", name="refusal")).to_contain_text("<b>words</b>")
        for number in range(31, 60):
            book(number, "done", None)
        expect(section.locator("dd").first).to_contain_text("59")
        with open(server.room.trainings.roots[0] / "first" / "metrics.jsonl", "a") as lines:
            lines.write(json.dumps({"step": 55, "loss": 0.1}) + "\n")
        expect(page.get_by_role("img", name="loss per learned token, 55 steps")).to_be_visible()
    expect(page.get_by_label("Captioning teacher")).to_contain_text("done")
    assert page.evaluate("window.kept") == 1
    assert visit.violations() == []
    assert visit.seen == []
    done.set()


def test_two_models_answer_side_by_side_as_they_speak(browser: Browser, tmp_path: Path) -> None:
    with speaking() as speaker:
        models = [f"{speaker.url}#flowing", f"{speaker.url}#plain"]
        with serving(captioned(tmp_path, 3), models=models) as asked:
            visit = Visit(browser, asked)
            page = visit.go("/?layer=teacher")
            page.locator(".about").get_by_role("link", name="ask").first.click()
            page.wait_for_url("**/ask?*")
            page.keyboard.press("/")
            page.keyboard.press("Control+A")
            page.keyboard.type("What floats?")
            page.keyboard.press("Control+Enter")
            first = page.get_by_label("Answer of the first model")
            expect(page.get_by_label("Answer of the second model")).to_contain_text("".join(WORDS))
            expect(first).to_contain_text("A red")
            assert "boat" not in first.inner_text()  # its server holds the rest back
            speaker.go.set()
            expect(first).to_contain_text("".join(WORDS))
            assert [body["messages"][0]["content"][1]["text"] for body in speaker.asked] == [
                "What floats?"
            ] * 2
            assert visit.violations() == []
            assert visit.seen == []
