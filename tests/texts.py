"""A small text that is made here, for tests of language models."""

import random

WORDS = ("to", "be", "or", "not", "that", "is", "the", "question", "whether", "nobler", "suffer", "slings", "arrows")


def write_text(path, lines=80):
    """Lines of five words; all characters occur in each part."""
    draw = random.Random(0)
    path.write_text("".join(" ".join(draw.choices(WORDS, k=5)) + "\n" for _ in range(lines)))
    return path
