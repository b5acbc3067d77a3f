"""Models carved in segments: what to load, how to run a part, which adapter; imports nothing by itself."""
