"""Relative energies by the path integral."""
