"""Benchmarks of the core: correctness first, then figures with the machine that they were taken on."""
