"""Continuous normalising flows of points and images."""
