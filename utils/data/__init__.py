"""Data sets of training images, and their subsets of K images."""
