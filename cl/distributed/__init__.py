"""Several ranks: starting them, their numbers, and the communication between them."""
