"""Merging: fuse networks that were trained on one task each into one network."""
