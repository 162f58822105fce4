"""How figures look, how they are saved, and pictures of images."""
