"""The documentation as a reader meets it: built, and looked at in a browser.

Chromium is Debian's (``apt-get install chromium``); without it, or without the extra ``docs``, the tests are skipped.
"""

import re
import shutil
import threading
from importlib.util import find_spec

import pytest

from deqzoo.docs.build import NEEDED, Server, build
from deqzoo.zoo.shipped import shipped

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(find_spec(name) is None for name in (*NEEDED, "playwright")),
        reason="needs pip install -e '.[docs]' and playwright",
    ),
]
CHROMIUM = shutil.which("chromium")
NEEDS_CHROMIUM = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return build(tmp_path_factory.mktemp("docs"))


@pytest.fixture(scope="module")
def address(site):
    server = Server(site, 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium, address):
    """Opens a page of the site; at the end no page may have had an error, or asked for anything elsewhere."""
    faults, contexts = [], []

    def opened(path="index.html", width=1440, scheme="light"):
        context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        context.set_default_timeout(300_000)  # ms: a busy machine is slow, and no test is about time
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("requestfailed", failed)
        page.on("request", lambda request: elsewhere(request.url))
        page.goto(address + path)
        return page

    def failed(request):
        if request.failure != "net::ERR_ABORTED":  # as those are that a page has not finished when it is left
            faults.append(f"{request.failure}: {request.url}")

    def elsewhere(url):
        if not url.startswith((address, "data:", "blob:")):
            faults.append(f"asked for {url}")

    yield opened
    for context in contexts:
        context.close()
    assert faults == []


def test_site_has_each_model_and_no_page_is_empty(site):
    pages = sorted(site.rglob("*.html"))
    assert {page.stem for page in (site / "zoo").glob("*.html")} == set(shipped())
    for page in pages:
        if page.name != "404.html":
            content = page.read_text().partition("<article")[2].partition("</article>")[0]
            assert "][deqzoo" not in content, page  # a reference that was not resolved
            assert len(re.sub(r"<[^>]*>|\s", "", content)) > 100, page


def test_functions_are_not_taken_for_modules_of_their_names(site):
    modules = re.compile(r'doc-symbol-module"></code>\s*<span class="doc doc-object-name doc-module-name">(\w+)')
    pages = [page.read_text() for page in sorted((site / "reference").glob("*.html"))]
    assert sorted(modules.findall("".join(pages))) == ["conditions", "projections", "proximal"]


def test_internal_links_hold(site):
    broken = []
    for page in site.rglob("*.html"):
        if page.name == "404.html":  # its links start at the address of the site
            continue
        for link in re.findall(r'(?:href|src)="([^"]+)"', page.read_text()):
            path, _, anchor = link.partition("#")
            if re.match(r"\w+:", link) or (not path and not anchor):
                continue
            target = (page.parent / path).resolve() if path else page
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file() or (
                anchor and target.suffix == ".html" and f'id="{anchor}"' not in target.read_text()
            ):
                broken.append(f"{page.relative_to(site)}: {link}")
    assert broken == []


@NEEDS_CHROMIUM
def test_every_page_loads_without_errors_and_fits_a_phone(site, open_page, address):
    page = open_page(width=375)
    wide, unseen = [], []
    for file in sorted(site.rglob("*.html")):
        name = file.relative_to(site).as_posix()
        if name == "404.html":
            continue
        page.goto(address + name)
        if page.evaluate("document.documentElement.scrollWidth > window.innerWidth"):
            wide.append(name)
        if not page.locator("article h1, article h2").first.is_visible():
            unseen.append(name)
    assert wide == []
    assert unseen == []


@NEEDS_CHROMIUM
@pytest.mark.parametrize("path", ["index.html", "gradients.html", "gallery.html", "zoo.html", "zoo/deq_cifar.html"])
def test_pictures_are_shown(open_page, path):
    page = open_page(path)
    pictures = page.locator("article img")
    assert pictures.count()
    for picture in pictures.all():
        picture.scroll_into_view_if_needed()
        picture.evaluate("picture => picture.decode()")  # raises if it is none
        assert picture.evaluate("picture => picture.naturalWidth > 0 && picture.width > 0")


@NEEDS_CHROMIUM
def test_search_finds_fixed_point(open_page):
    page = open_page()
    page.locator(".md-search__button").first.click()
    page.locator("input[aria-autocomplete=list]").fill("fixed_point")
    page.locator('a[href$="#deqzoo.implicit.fixed_point"]:visible').first.click()
    page.wait_for_url("**/reference/functions.html*")
    page.locator("[id='deqzoo.implicit.fixed_point']").wait_for()


@NEEDS_CHROMIUM
def test_cards_of_the_zoo_sort_and_are_chosen_by_task(open_page):
    page = open_page("zoo.html")
    cards = page.locator(".zoo-card")
    names = lambda: cards.evaluate_all("cards => cards.filter(c => !c.hidden).map(c => c.dataset.name)")  # noqa: E731
    numbers = lambda key: [  # noqa: E731
        float(value) for value in cards.evaluate_all(f"cards => cards.map(c => c.dataset.{key})") if value
    ]
    assert names() == shipped()
    task, order = page.locator(".zoo-controls select").all()
    order.select_option("parameters 1")
    assert numbers("parameters") == sorted(numbers("parameters"))
    order.select_option("accuracy -1")
    assert numbers("accuracy") == sorted(numbers("accuracy"), reverse=True)
    assert cards.last.get_attribute("data-accuracy") == ""  # those without one come last
    order.select_option("nfe 1")
    assert numbers("nfe") == sorted(numbers("nfe"))
    task.select_option("Flows")
    assert "cnf_moons" in names()
    assert "deq_cifar" not in names()
    cards.and_(page.locator(":visible")).first.click()
    page.wait_for_url("**/zoo/cnf_*.html")


@NEEDS_CHROMIUM
def test_table_of_results_sorts(open_page):
    page = open_page("results.html")
    table = page.locator("article table").first
    head = table.locator("th", has_text="parameters")
    column = lambda: [  # noqa: E731
        int(text.replace(",", "")) for text in table.locator("tbody td:nth-child(4)").all_text_contents()
    ]
    head.click()
    assert column() == sorted(column())
    head.click()
    assert column() == sorted(column(), reverse=True)
    assert head.get_attribute("aria-sort") == "descending"


@NEEDS_CHROMIUM
def test_light_and_dark(open_page):
    ground = "getComputedStyle(document.body).backgroundColor"
    light, dark = (open_page(scheme=scheme).evaluate(ground) for scheme in ("light", "dark"))
    brightness = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (light, dark)]
    assert brightness[0] > 600
    assert brightness[1] < 200
    page = open_page()
    page.locator("label[for^=__palette]:visible").first.click()
    assert page.evaluate(ground) != light


@NEEDS_CHROMIUM
def test_formulas_are_drawn(open_page):
    page = open_page("gradients.html")
    formulas = page.locator("article math")
    assert formulas.count() > 10
    assert all(formula.bounding_box()["height"] > 5 for formula in formulas.all())
    assert "$" not in page.locator("article p").first.inner_text()
