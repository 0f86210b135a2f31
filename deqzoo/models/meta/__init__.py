"""Meta-learning and hyperparameters by implicit gradients."""
