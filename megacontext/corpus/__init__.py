"""Texts to train and measure on: where they are kept, their tokens on disk, and the order in which rows are read."""
