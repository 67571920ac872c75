"""Fusions that match the channels of networks before they average them."""
