"""Continual learning: data, strategies, buffers, training, evaluation and results."""
