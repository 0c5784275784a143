"""Whole configurations of runs."""
