"""Training through a split model: the client's step, the edge's session, and their unsplit twin."""
