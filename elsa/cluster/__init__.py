"""Who learns with whom and at which edge; NumPy and SciPy only."""
