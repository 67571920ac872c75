"""Data sets: they read the samples that a scenario divides into tasks."""
