"""The edge: runs the blocks between its clients' bottoms and tops, and aggregates their adapters."""
