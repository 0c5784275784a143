"""Processes beside the gateway: the engine's and the classic channels', how they are kept alive, and their lanes."""
