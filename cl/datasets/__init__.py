"""Data sets: where samples come from, before a scenario makes tasks of them."""
