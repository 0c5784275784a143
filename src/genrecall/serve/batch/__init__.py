"""Recommendations for everybody: shards that any number of processes work through, each done exactly once."""
