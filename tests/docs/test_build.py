"""How the site is made of the pages."""

import importlib.util
import re

import pytest

from deqzoo.__main__ import main
from deqzoo.docs import build
from deqzoo.docs.cards import picture, zoo_cards
from deqzoo.docs.docstrings import as_markdown
from deqzoo.docs.formulas import with_mathml
from deqzoo.docs.pages import Site, write_pages
from deqzoo.zoo.shipped import shipped
from tests.running import ROOT


def test_pages_of_the_checkout_are_collected(tmp_path):
    pytest.importorskip("latex2mathml", reason="needs pip install -e '.[docs]'")
    folder = tmp_path / "pages"
    write_pages(ROOT, folder)
    home = (folder / "index.md").read_text()
    assert "](docs/" not in home
    assert "](getting_started.md)" in home
    assert "](zoo/deq_cifar.md)" in home
    assert "](results.csv)" in home
    assert (folder / "pictures" / "hero.gif").is_file()
    assert (folder / "examples" / "pictures" / "pagerank.png").is_file()
    assert "<math" in (folder / "gradients.md").read_text()
    assert "--8<--" not in "".join(page.read_text() for page in folder.rglob("*.md") if page.stem != "contributing")


def test_formulas_become_mathml_but_not_in_code():
    pytest.importorskip("latex2mathml", reason="needs pip install -e '.[docs]'")
    text = with_mathml("`$a$` is $a$, not 3 $ or 4 $\n\n```\n$a$\n```\n\n$$ a = b $$")
    assert text.count("<math") == 2
    assert text.startswith('`$a$` is <span class="formula"><math')
    assert "not 3 $ or 4 $\n\n```\n$a$\n```" in text
    assert 'display="block"' in text.partition("```\n\n")[2]


def test_docstrings_become_markdown():
    text = "Names\n    a.py  first\n\nOf `root` and `a root`::\n\n    `root`\n\n>>> 1\n1\n\nSource: a paper."
    wanted = (
        "Names\n\n    a.py  first\n\nOf [`root`][deqzoo.root] and `a root`:\n\n    `root`\n\n"
        "```pycon\n>>> 1\n1\n```\n\n**Source:** a paper."
    )
    assert as_markdown(text, {"root": "deqzoo.root"}) == wanted


def test_every_page_is_in_the_navigation():
    in_navigation = set(re.findall(r'= "([\w/]+\.md)"', (ROOT / "docs" / "zensical.toml").read_text()))
    assert in_navigation == {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}


def test_links_become_those_of_the_site(tmp_path):
    (tmp_path / "docs").mkdir()
    page, script, picture = tmp_path / "docs" / "page.md", tmp_path / "script.py", tmp_path / "docs" / "a.png"
    for file in (page, script, picture):
        file.write_text("")
    other = tmp_path / "other" / "README.md"
    other.parent.mkdir()
    other.write_text("")
    site = Site(tmp_path, tmp_path / "out", {page: page.relative_to(tmp_path / "docs"), other: page.parent / "x.md"})
    site.homes[other] = other.relative_to(tmp_path).with_name("x.md")
    localised = lambda text: site.localised(text, page, page.relative_to(tmp_path / "docs"))  # noqa: E731
    assert localised("[a](../other/README.md#part) [b](https://b.c)") == "[a](other/x.md#part) [b](https://b.c)"
    assert localised("[the script](../script.py), [a folder](../other)") == "the script, [a folder](other/x.md)"
    assert localised("![a](a.png)") == "![a](a.png)"
    assert (tmp_path / "out" / "a.png").is_file()
    assert localised("```\n[a](nowhere)\n```") == "```\n[a](nowhere)\n```"
    with pytest.raises(FileNotFoundError, match=r"docs/page\.md links to nowhere\.md, which there is not"):
        localised("[a](nowhere.md)")


def test_each_model_has_a_card_with_a_picture():
    cards = re.findall(r'href="zoo/(\w+)\.html".*?<img src="([^"]+)"', zoo_cards())
    assert [name for name, _ in cards] == shipped()
    assert all((ROOT / image).is_file() for _, image in cards)
    assert picture("cnf_moons").name != "training.png"


def test_missing_extra_is_named(monkeypatch):
    monkeypatch.setattr(build, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"needs zensical, .*: pip install -e '\.\[docs\]'"):
        main(["docs", "--no-serve"])


def test_an_installed_package_says_that_it_has_no_pages(monkeypatch, tmp_path):
    monkeypatch.setattr(build, "zoo_path", lambda kind: tmp_path / kind)
    with pytest.raises(SystemExit, match="in a checkout"):
        main(["docs"])


def test_badges_and_pictures_are_those_that_the_script_draws(tmp_path):
    spec = importlib.util.spec_from_file_location("draw", ROOT / "docs" / "draw.py")
    draw = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(draw)
    for name, svg in draw.badges().items():
        assert (ROOT / "docs" / "pictures" / f"{name}.svg").read_text() == svg, "run `python docs/draw.py badges`"
    draw.gradient(tmp_path / "gradient.png")
    assert (tmp_path / "gradient.png").stat().st_size > 10_000
    draw.FRAMES = 3
    draw.hero(tmp_path / "hero.gif")
    assert (tmp_path / "hero.gif").read_bytes()[:6] == b"GIF89a"
