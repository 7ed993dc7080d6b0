"""What the kernels of a model cost, and how far that is from what the machine can do."""
