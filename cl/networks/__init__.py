"""Networks, and the reader of their weights from files."""
