"""Fusions that average weights, their directions or the networks' outputs."""
