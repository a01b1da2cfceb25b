"""The rendered book in a real browser, opened from disk with no network."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from synreal.book.render import render

pytestmark = pytest.mark.browser

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
PATIENCE = 60_000  # milliseconds; a loaded machine draws slowly
CHAPTERS = ("01_world", "02_classifiers")


@pytest.fixture(scope="session")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The book of the outputs stored in the repository's notebooks."""
    return render(None, tmp_path_factory.mktemp("rendered") / "html").parent


@pytest.fixture(scope="session")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(offline=True)
    context.set_default_timeout(PATIENCE)
    yield context.new_page()
    context.close()


def pages(book: Path) -> list[Path]:
    return sorted(path for folder in ("book", "notebooks") for path in (book / folder).glob("*.html"))


def chapter(book: Path, name: str) -> str:
    return (book / "notebooks" / f"{name}.html").as_uri()


def test_every_page_loads_without_an_error_or_a_request_to_the_network(book: Path, page: Page) -> None:
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("requestfailed", lambda request: problems.append(f"failed: {request.url[:200]}"))
    page.on("request", lambda r: problems.append(r.url) if r.url.startswith(("http:", "https:")) else None)
    for path in pages(book):
        page.goto(path.as_uri())
        assert page.locator("h1").first.inner_text().strip(), path.name
        assert not problems, f"{path.name}: {problems}"


def test_no_link_or_image_of_any_page_is_broken(book: Path, page: Page) -> None:
    ids: dict[Path, set[str]] = {}
    links: list[tuple[Path, str]] = []
    for path in pages(book):
        page.goto(path.as_uri())
        ids[path] = set(page.eval_on_selector_all("[id]", "found => found.map(e => e.id)"))
        hrefs = page.eval_on_selector_all("a[href]", "found => found.map(e => e.href)")
        links += [(path, href) for href in hrefs if href.startswith("file:")]
        broken = "found => found.filter(e => e.complete && !e.naturalWidth).map(e => e.src.slice(0, 200))"
        assert page.eval_on_selector_all("article img", broken) == [], path.name
    assert links
    for path, href in links:
        address, anchor = urldefrag(href)
        target = Path(unquote(urlsplit(address).path))
        assert target.exists(), f"{path.name} links to {href}"
        assert not anchor or target not in ids or unquote(anchor) in ids[target], (
            f"{path.name} links to {href}"
        )


def test_search_finds_a_term_that_links_to_its_page(book: Path, page: Page) -> None:
    page.goto((book / "search.html").as_uri() + "?q=RealTune")
    results = page.locator("#search-results li a")
    results.first.wait_for()
    addresses = results.evaluate_all("found => found.map(e => e.href)")
    assert any("book/glossary.html" in address for address in addresses)


@pytest.mark.parametrize("name", CHAPTERS)
def test_every_figure_of_a_chapter_has_alt_text_and_a_caption(book: Path, page: Page, name: str) -> None:
    page.goto(chapter(book, name))
    images = page.locator("article .cell_output img")
    assert images.count() >= 1
    assert all((image.get_attribute("alt") or "").strip() for image in images.all())
    figures = page.locator("article .cell_output figure.synreal-figure")
    assert figures.count() == images.count(), "an image was shown without Study.figure"
    assert all(caption.strip() for caption in figures.locator("figcaption").all_inner_texts())


def test_figures_stay_on_a_white_card_in_dark_mode(book: Path, page: Page) -> None:
    page.goto(chapter(book, CHAPTERS[0]))
    page.evaluate("localStorage.setItem('mode', 'light'); localStorage.setItem('theme', 'light')")
    page.reload()
    for _ in range(3):  # the button goes through light, dark and the system's choice
        if page.locator("html").get_attribute("data-theme") == "dark":
            break
        page.locator("button.theme-switch-button:visible").first.click()
    assert page.locator("html").get_attribute("data-theme") == "dark"
    image = page.locator("figure.synreal-figure img").first
    style = (
        "e => [getComputedStyle(e).backgroundColor, getComputedStyle(e).filter, getComputedStyle(e).opacity]"
    )
    assert image.evaluate(style) == ["rgb(255, 255, 255)", "none", "1"]
    background = page.locator("body").evaluate("e => getComputedStyle(e).backgroundColor")
    assert background != "rgb(255, 255, 255)"
    assert image.is_visible()


def test_mathematics_is_drawn_without_a_network(book: Path, page: Page) -> None:
    page.goto((book / "book" / "glossary.html").as_uri())
    formula = page.locator("mjx-container svg").first
    formula.wait_for()
    assert formula.bounding_box()["width"] > 20


def test_the_first_page_shows_numbers_where_prose_asks_for_them(book: Path, page: Page) -> None:
    page.goto((book / "book" / "intro.html").as_uri())
    glued = page.locator("article .pasted-text").all_inner_texts()
    assert len(glued) >= 8 and all(text.strip() for text in glued)
    assert not any("nan" in text.split() for text in glued)
