"""Metrics, protocols, harness and reports."""
