"""Curvature of the energy around samples."""
