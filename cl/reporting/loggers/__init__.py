"""Where metrics go beside metrics.csv: the contract, Weights & Biases, TensorBoard, and several of them at a time."""
