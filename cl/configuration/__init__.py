"""What a configuration may hold, and what of it names a run."""
