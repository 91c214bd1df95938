"""Throughput as a ratio to its limit."""
