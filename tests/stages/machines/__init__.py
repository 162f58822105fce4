"""Denoisers in closed form beside a network."""
