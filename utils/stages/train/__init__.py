"""Train a U-Net on K images."""
