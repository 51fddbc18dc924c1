"""Aggregation of updates: sums, secure aggregation and homomorphic encryption."""
