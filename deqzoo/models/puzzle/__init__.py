"""Networks that reason: puzzles whose solution is an equilibrium."""
