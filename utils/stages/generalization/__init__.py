"""Tests that tell generalization from memorization."""
