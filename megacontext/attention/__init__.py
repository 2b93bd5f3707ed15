"""Attention: rotary positions, normed attention and the encoder layers that GistNet and LensNet share."""
