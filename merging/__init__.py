"""Merging: fuse the networks that were trained on one task each."""
