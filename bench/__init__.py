"""Measures the claims about speed and memory against their baselines: `make bench`."""
