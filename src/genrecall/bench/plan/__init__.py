"""How many GPUs a service needs: measured batches, or the arithmetic of a device, under the engine's own scheduler."""
