"""Language models of an equilibrium, and explicit ones."""
