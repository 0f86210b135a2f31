"""Comparisons of our own choices: ``python -m studies.NAME`` in the checkout."""
