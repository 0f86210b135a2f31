"""What the families of models share: kinds, training, options, metrics."""
