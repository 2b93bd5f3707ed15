"""Pretraining of a base model on plain text: vanilla, as nanochat does it, or with gists in place of folded blocks."""
