"""Nearest training and synthetic neighbours of each sample."""
