"""Copies of training images among any samples."""
