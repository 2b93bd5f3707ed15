"""Runtime: the parts put together. A bundle of weights, a session over a memory, a folder for a run."""
