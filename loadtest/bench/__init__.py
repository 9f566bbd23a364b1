"""Benchmarks: each starts its server and the peers in turn, prints ratios, and ends by itself."""
