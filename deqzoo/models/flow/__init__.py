"""Continuous normalizing flows of points and images."""
