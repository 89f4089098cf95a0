"""The page in a real browser, where the machine has one."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lookright.reports.heat import heat_levels
from lookright.serve.models import Models
from lookright.serve.settings import Limits
from lookright.types import Footprint
from tests.serve.conftest import Live, served

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NOTE = ".card .note:not(:empty)"
"""What stands below an answer once its heat is drawn."""
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium here")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture()
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open the page at a width; whatever the browser complains about fails the test."""
    told: list[str] = []
    pages = []

    def make(address: str, width: int = 1200) -> Any:
        page = browser.new_page(viewport={"width": width, "height": 800})
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("console", lambda message: told.append(message.text) if message.type in ("error", "warning") else None)
        page.on(
            "request",
            lambda request: None if request.url.startswith((address, "data:", "blob:")) else told.append(request.url),
        )
        page.goto(address)
        pages.append(page)
        return page

    make.told = told
    yield make
    for page in pages:
        page.close()
    assert not told


@pytest.fixture()
def files(tmp_path: Path, picture: Callable[..., Image.Image]) -> list[str]:
    for number in range(3):
        picture((30 + 10 * number, 24), number).save(tmp_path / f"{number}.png")
    return [str(tmp_path / f"{number}.png") for number in range(3)]


def until(page: Any, condition: Callable[[], bool]) -> None:
    """Wait for something to become true; the page's own policy forbids Playwright to evaluate texts for it."""
    for _ in range(200):
        if condition():
            return
        page.wait_for_timeout(50)
    raise AssertionError("it did not happen")


def answered(page: Any, files: list[str], target: int | None = 1) -> None:
    """Give pictures, ask about one of them, and wait for the heat."""
    page.set_input_files("#files", files)
    page.wait_for_selector(f"#pictures li:nth-child({len(files)})")
    if target is not None:
        page.click(f"#targets button:nth-of-type({target + 1})")
    page.fill("#question", "What is it?")
    page.click("#send")
    page.wait_for_selector(NOTE)


@needs_browser
@pytest.mark.parametrize("width", [390, 1200])
def test_base_and_tuned_beside_each_other(width: int, live: Live, open_page: Any, files: list[str]) -> None:
    page = open_page(live.address, width)
    answered(page, files)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    cards = page.query_selector_all(".answers .card")
    assert [card.query_selector("b").inner_text() for card in cards] == ["base", "tuned"]
    assert page.inner_text("#results-title") == "In Image2, what is it?"
    for card in cards:
        shares = [int(one.inner_text().split()[0]) for one in card.query_selector_all(".value")]
        assert len(shares) == 3 and 98 <= sum(shares) <= 102
        assert [one.inner_text() for one in card.query_selector_all("figcaption")] == ["Image1", "Image2", "Image3"]
        assert "target" in card.query_selector_all("figure")[1].get_attribute("class")
        assert all(one.evaluate("(canvas) => canvas.width") > 100 for one in card.query_selector_all("canvas"))


@needs_browser
def test_a_word_a_band_and_a_head(live: Live, open_page: Any, files: list[str]) -> None:
    page = open_page(live.address)
    answered(page, files)
    pixels = "document.querySelector('.card canvas').toDataURL()"
    whole = page.evaluate(pixels)
    page.click(".card .said button:nth-of-type(2)")
    page.wait_for_selector(".card:first-child .note:has-text('Looking for “')")
    word = page.evaluate(pixels)
    assert word != whole and page.get_attribute(".card .said button:nth-of-type(2)", "aria-pressed") == "true"
    assert page.inner_text(".card .note >> nth=1").startswith("Looking for the whole answer")
    page.select_option("#band", "2")
    until(page, lambda: page.evaluate(pixels) != word)
    band = page.evaluate(pixels)
    with page.expect_response("**/lookright/look"):
        page.select_option("#head", "1")
    until(page, lambda: page.evaluate(pixels) != band)
    page.select_option("#head", "")
    until(page, lambda: page.evaluate(pixels) == band)


@needs_browser
def test_the_heat_is_that_of_the_reports(live: Live, open_page: Any) -> None:
    page = open_page(live.address)
    boxes = [[0, 0, 0.5, 1, 1.0], [0.5, 0, 1, 0.5, 0.8], [0.5, 0.5, 1, 1, 0.8]]
    values = [0.2, 0.05, 0.4]
    look = {"pictures": [{"width": 40, "height": 20, "boxes": boxes}]}
    found = page.evaluate("([look, values]) => Array.from(levelsOf(look, values)[0].levels)", [look, values])
    seen = [
        (Footprint(box=(40 * left, 20 * top, 40 * right, 20 * bottom), share=share), value)
        for (left, top, right, bottom, share), value in zip(boxes, values, strict=True)
    ]
    (expected,) = heat_levels([((40, 20), seen)], 300)
    assert found == pytest.approx(expected.ravel().tolist(), rel=1e-5)


@needs_browser
def test_names_and_answers_are_text_and_refusals_are_told(live: Live, open_page: Any, files: list[str]) -> None:
    page = open_page(live.address)
    page.set_input_files("#files", files[:1])
    page.wait_for_selector("#pictures li")
    page.fill("#question", "<img src=x onerror=alert(1)> what is it?")
    page.click("#send")
    page.wait_for_selector(NOTE)
    assert page.inner_text("#results-title").startswith("<img src=x")
    assert page.evaluate("document.querySelectorAll('main img').length") == 1
    page.fill("#question", "<image> or <image>, what is it?")
    open_page.told.clear()
    page.click("#send")
    page.wait_for_selector("#status.bad")
    assert "placeholder" in page.inner_text("#status") or "<image>" in page.inner_text("#status")
    # the browser tells of the refusal too
    open_page.told[:] = [text for text in open_page.told if "400" not in text]


@needs_browser
def test_a_key_is_asked_for(models: Models, open_page: Any, files: list[str]) -> None:
    with served(models, api_key="secret") as live:
        page = open_page(live.address)
        page.wait_for_selector("#key-field:not([hidden])")
        page.fill("#key", "secret")
        answered(page, files)
        assert len(page.query_selector_all(".answers .card")) == 2
        page.close()
        open_page.told[:] = [text for text in open_page.told if "401" not in text]


@needs_browser
def test_pictures_are_pasted_dropped_and_removed(live: Live, open_page: Any, files: list[str]) -> None:
    page = open_page(live.address)
    give = """async (kind) => {
      const canvas = document.createElement('canvas'); canvas.width = 30; canvas.height = 20;
      const blob = await new Promise((done) => canvas.toBlob(done, 'image/png'));
      const data = new DataTransfer(); data.items.add(new File([blob], 'a.png', {type: 'image/png'}));
      const options = {bubbles: true, cancelable: true};
      document.dispatchEvent(kind === 'paste' ? new ClipboardEvent(kind, {...options, clipboardData: data})
        : new DragEvent(kind, {...options, dataTransfer: data}));
    }"""
    for number, kind in enumerate(("paste", "drop"), 1):
        page.evaluate(give, kind)
        page.wait_for_selector(f"#pictures li:nth-child({number})")
    page.set_input_files("#files", [*files, files[0]])
    page.wait_for_selector("#pictures li:nth-child(5)")
    page.wait_for_selector("#status.bad")
    assert "No more than 5" in page.inner_text("#status")
    page.click("#pictures li:nth-child(1) .remove")
    assert len(page.query_selector_all("#pictures li")) == 4


@needs_browser
def test_a_head_that_was_refused_is_asked_again(live: Live, open_page: Any, files: list[str]) -> None:
    page = open_page(live.address)
    answered(page, files)
    busy = {"error": {"message": "too many are here"}}
    page.route("**/lookright/look", lambda route: route.fulfill(status=429, json=busy))
    page.select_option("#head", "1")
    page.wait_for_selector("#status.bad:has-text('Too many are here.')")
    assert page.inner_text(".card .note >> nth=0") == ""
    page.unroute("**/lookright/look")
    page.click(".card .said button.whole >> nth=0")
    page.wait_for_selector(".card:first-child .note:has-text('Brightest')")
    assert page.inner_text("#status") == ""
    open_page.told[:] = [text for text in open_page.told if "429" not in text]


@needs_browser
def test_a_long_answer_says_how_much_of_it_a_head_tells(live: Live, open_page: Any, files: list[str]) -> None:
    page = open_page(live.address)
    answered(page, files[:1], None)
    assert page.evaluate("state.results[0].look.tokens.length") > 16
    assert page.inner_text(".card .note >> nth=0").startswith("Looking for the whole answer. Brightest")
    page.select_option("#head", "0")
    page.wait_for_selector(".card:first-child .note:has-text('the whole answer, its first 16 tokens. Brightest')")


@needs_browser
def test_the_keyboard_stays_where_it_was(live: Live, open_page: Any, files: list[str]) -> None:
    page = open_page(live.address)
    page.set_input_files("#files", files)
    page.wait_for_selector("#pictures li:nth-child(3)")
    focused = "document.activeElement.textContent || document.activeElement.id"
    page.press("#targets button:nth-of-type(2)", "Enter")
    assert page.evaluate(focused) == "Image2"
    for left in ("Remove Image2", "Remove the picture"):
        page.press("#pictures li:last-child .remove", "Enter")
        assert page.evaluate("document.activeElement.getAttribute('aria-label')") == left
    page.press("#pictures .remove", "Enter")
    assert page.evaluate(focused) == "files"


@needs_browser
def test_no_more_pictures_than_the_server_takes(models: Models, open_page: Any, files: list[str]) -> None:
    with served(models, Limits(pictures=2, seconds=60)) as live:
        page = open_page(live.address)
        page.wait_for_selector("#models input")
        page.set_input_files("#files", files)
        page.wait_for_selector("#status.bad:has-text('No more than 2 pictures.')")
        assert page.is_hidden("#drop") and len(page.query_selector_all("#pictures li")) == 2
        page.close()


def test_the_page_is_all_of_the_package(live: Live) -> None:
    for path in ("/", "/page.js", "/page.css", "/style.css"):
        response = live.client.get(path)
        assert response.status_code == 200 and "http" not in response.text.replace("https://www.w3.org", "")
        assert "frame-ancestors 'none'" in response.headers["content-security-policy"]
    script = live.client.get("/page.js").text
    assert "innerHTML" not in script and "eval(" not in script
