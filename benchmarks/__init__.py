"""Comparisons with other libraries: ``python -m benchmarks.NAME`` in the checkout."""
