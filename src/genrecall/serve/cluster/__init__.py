"""Several services behind one address: users are divided among them, and stay where they are (Ray Serve)."""
