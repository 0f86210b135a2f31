"""Networks with an optimisation problem as a layer, and explicit ones to compare with."""
