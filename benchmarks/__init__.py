"""Ratios against peers, measured in turn in one run: `python -m benchmarks [NAME...]`."""
