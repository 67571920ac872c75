"""Fusions that align the channels of the networks before they average the weights."""
