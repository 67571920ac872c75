"""Replay buffers: the contract, and its implementations."""
