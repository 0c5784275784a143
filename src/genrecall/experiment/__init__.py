"""A/B tests: who is in which arm, what they were shown, and what may be concluded."""
