"""Neural ODEs: classifiers, and latent ODEs of series."""
