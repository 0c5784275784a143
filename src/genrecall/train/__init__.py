"""Next-SID training."""
