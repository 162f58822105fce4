"""Tests that tell generalization from memory."""
