"""Memorized, spurious or generalized."""
