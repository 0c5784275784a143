"""What the engine computes, in tensors."""
