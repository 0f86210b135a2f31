"""Each script of examples/ compares with an answer that is known; here the errors must be small."""

import importlib.util
import re
from pathlib import Path

import pytest

EXAMPLES = sorted(Path(__file__).parents[1].joinpath("examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_finds_the_known_answer(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    errors = module.main()
    assert errors
    for name, error in errors.items():
        assert error < 1e-9, f"{name}: {error:.1e}"


def test_gallery_shows_each_example_and_picture():
    folder = EXAMPLES[0].parent
    page = folder.joinpath("README.md").read_text()
    assert [path.name for path in EXAMPLES if f"({path.name})" not in page] == []
    pictures = sorted(folder.joinpath("pictures").iterdir())
    assert {f"pictures/{path.name}" for path in pictures} == set(re.findall(r"!\[\]\((.*?)\)", page))
    assert {path.stem for path in pictures} <= {path.stem for path in EXAMPLES}
    assert all(path.stat().st_size < 200_000 for path in pictures)
