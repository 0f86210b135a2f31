"""What the site consists of: the pages of ``docs/``, what they include, the cards of the zoo, and their pictures.

A page may include a file of the checkout by a line ``--8<-- "CHANGELOG.md"``, as Markdown's snippets do; links of that
file are made those of the site. A link to what the site does not have (a folder, a script) becomes its text, as the
project has no public address yet.
"""

import os
import re
import shutil
from pathlib import Path

from deqzoo.docs.cards import picture, zoo_cards
from deqzoo.docs.formulas import with_mathml
from deqzoo.docs.performance import benchmark_tables
from deqzoo.zoo.shipped import shipped

_INCLUDE = re.compile(r'^--8<-- "(.+)"$', re.MULTILINE)
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
_CODE = re.compile(r"(^```.*?^```)", re.MULTILINE | re.DOTALL)
_FILES = (".png", ".gif", ".svg", ".csv")
_MADE = {  # what stands in place of a mark <!-- NAME -->
    "cards": lambda root: zoo_cards(),
    "benchmarks": lambda root: benchmark_tables(root / "benchmarks" / "results"),
}
_GENERATED = re.compile(r"<!-- (?:entries|end of entries).*?-->\n?")


def write_pages(root: Path, folder: Path) -> None:
    """Write all of the site's pages and files of the checkout ``root`` to ``folder``, which is made anew."""
    shutil.rmtree(folder, ignore_errors=True)
    sources = {page: page.relative_to(root / "docs") for page in sorted((root / "docs").rglob("*.md"))}
    cards = {root / "checkpoints" / name / "README.md": Path("zoo") / f"{name}.md" for name in shipped()}
    homes = {**sources, **cards, root / "README.md": Path("index.md")}
    for page, target in sources.items():
        for file in _INCLUDE.findall(page.read_text()):
            homes.setdefault(root / file, target)
    site = Site(root, folder, homes)
    for page, target in {**sources, **cards}.items():
        site.write(page, target)
    for name in shipped():
        site.copy(picture(name))
    for file in sorted((root / "docs").rglob("*")):
        if file.suffix in (".css", ".js", *_FILES):
            site.copy(file, file.relative_to(root / "docs"))


class Site:
    """The files that are written to ``folder``; ``homes`` has the page that shows a file of the checkout."""

    def __init__(self, root: Path, folder: Path, homes: dict[Path, Path]) -> None:
        self.root, self.folder, self.homes = root, folder, homes

    def write(self, source: Path, target: Path) -> None:
        """One page, with what it includes."""
        text = self.localised(source.read_text(), source, target)
        text = _INCLUDE.sub(lambda match: self.included(self.root / match[1], target), text)
        for mark, made in _MADE.items():
            text = text.replace(f"<!-- {mark} -->\n", made(self.root)) if f"<!-- {mark} -->" in text else text
        self.folder.joinpath(target).parent.mkdir(parents=True, exist_ok=True)
        self.folder.joinpath(target).write_text(with_mathml(text))

    def included(self, file: Path, target: Path) -> str:
        """The text of another file; its heading goes where the page has one of its own."""
        if not file.is_file():
            raise FileNotFoundError(f"docs/{target} includes {file.relative_to(self.root)}, which there is not")
        text = _GENERATED.sub("", file.read_text())
        return self.localised(text.strip(), file, target)

    def localised(self, text: str, source: Path, target: Path) -> str:
        """Markdown of ``source`` as ``target`` shows it: links lead to pages of the site, pictures are copied."""
        parts = _CODE.split(text)
        for index in range(0, len(parts), 2):
            parts[index] = _LINK.sub(lambda match: self.link(match, source, target), parts[index])
        return "".join(parts)

    def link(self, match: re.Match[str], source: Path, target: Path) -> str:
        """One link or picture."""
        picture, label, address = match.groups()
        path, _, anchor = address.partition("#")
        if not path or "://" in address:
            return match[0]
        file = Path(os.path.normpath(source.parent / path))
        if file.is_dir() and (file / "README.md") in self.homes:
            file = file / "README.md"
        if file in self.homes:
            home = self.homes[file]
        elif file.suffix in _FILES and file.is_file():
            home = self.copy(file)
        elif file.exists():
            return label
        else:
            raise FileNotFoundError(f"{source.relative_to(self.root)} links to {address}, which there is not")
        there = Path(os.path.relpath(home, target.parent)).as_posix()
        return f"{picture}[{label}]({there}{'#' * bool(anchor)}{anchor})"

    def copy(self, file: Path, target: Path | None = None) -> Path:
        """Copy a file to the place that it has in the checkout, or to ``target``; its place on the site."""
        home = target or file.relative_to(self.root / "docs" if file.is_relative_to(self.root / "docs") else self.root)
        self.folder.joinpath(home).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, self.folder / home)
        return home
