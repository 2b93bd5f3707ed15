"""Evaluations: what is measured, with which arms, and how sure one may be."""
