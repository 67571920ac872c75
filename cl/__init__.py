"""Continual learning: data, strategies, buffers, training, evaluation and results."""

__version__ = "0.3.0"
