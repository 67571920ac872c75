"""Fusions that are means of weights, of their directions or of outputs."""
