"""Inverse problems: what was measured is known, and what caused it is an equilibrium."""
