"""Training embedding gists of a tiny bundle over plain text: recipes of the trainer `gists`."""
