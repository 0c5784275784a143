"""What a running service answers whole, what it answers at all, and what it does beyond that."""
