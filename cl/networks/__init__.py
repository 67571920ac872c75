"""Networks, and the files that their weights are read from."""
