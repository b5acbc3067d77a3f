"""Rules that make one adapter of many; NumPy only, one module a rule."""
