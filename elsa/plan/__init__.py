"""Which blocks each device keeps; NumPy only."""
