"""Scenarios: how a data set becomes a sequence of tasks."""
