"""Data on their way: rows, where they are read from, how they are decoded, changed and cut into batches."""
