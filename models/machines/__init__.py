"""Denoisers in closed form between the exact model of K images and the true denoiser."""
