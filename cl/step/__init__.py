"""One step of training: the objective, the update and its learning rate."""
