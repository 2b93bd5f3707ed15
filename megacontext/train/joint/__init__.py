"""Training of all parts together, in named steps: passages, build, sample, siblings, horizon, preference, loop."""
