"""Deep equilibrium models of images, and their explicit baselines."""
