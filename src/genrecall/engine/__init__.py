"""Constrained wide-beam generation."""
