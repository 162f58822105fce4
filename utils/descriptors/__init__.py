"""Images as vectors: pixels, LPIPS, descriptors of copies and features of networks."""
