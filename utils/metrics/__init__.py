"""Distances between images: embeddings, LPIPS, exact nearest neighbours."""
