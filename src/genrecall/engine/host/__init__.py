"""What the engine decides, in plain integers."""
