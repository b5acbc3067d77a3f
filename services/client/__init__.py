"""The client: keeps its rows, the ends of the model and the head; trains them through its edge."""
