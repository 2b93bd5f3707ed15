"""Pooled gists of a frozen decoder: first its attention is met layer by layer, then what it says."""
