"""Dividing work: devices, memory, ranks, shards, claims, and the jobs of a folder of K."""
