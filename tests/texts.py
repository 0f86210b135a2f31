"""Texts for tests: a small one that is made here, for language models, and the code of pages in Markdown."""

import random
import re

WORDS = ("to", "be", "or", "not", "that", "is", "the", "question", "whether", "nobler", "suffer", "slings", "arrows")


def write_text(path, lines=80):
    """Lines of five words; all characters occur in each part."""
    draw = random.Random(0)
    path.write_text("".join(" ".join(draw.choices(WORDS, k=5)) + "\n" for _ in range(lines)))
    return path


def python_blocks(page):
    """The Python code of a page in Markdown, in its order."""
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
