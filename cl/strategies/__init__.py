"""Strategies: how a network is trained on one task after another. One method, one file."""
