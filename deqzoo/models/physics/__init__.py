"""Parameters of physical systems from observations."""
