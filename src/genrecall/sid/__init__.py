"""Semantic IDs: layout, quantisers, collisions, quality."""
