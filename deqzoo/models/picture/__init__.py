"""Pictures as networks: colours as a function of the place."""
