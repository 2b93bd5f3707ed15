"""Tasks made on the spot: what is hidden in a history, and what is asked about it."""
