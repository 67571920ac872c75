"""Fusions of task vectors: what each network has moved from a common init."""
