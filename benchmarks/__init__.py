"""Measurements of the product: python -m benchmarks.<name> [--quick] [--seed N] [--json FILE]."""
