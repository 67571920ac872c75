"""Fusions of task vectors; a task vector is a network's weights minus the common init."""
