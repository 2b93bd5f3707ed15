"""A decoder of somebody else that stays as it is, and reads a memory all the same."""
