"""What a run measures, records and shows."""
