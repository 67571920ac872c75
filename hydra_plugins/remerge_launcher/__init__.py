"""The launcher of remerge's sweeps, where Hydra looks for its plugins."""
