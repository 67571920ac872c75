"""Scenarios: they divide a data set into a sequence of tasks."""
