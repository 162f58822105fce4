"""Distances between images: cached embeddings, exact nearest neighbours, intervals."""
