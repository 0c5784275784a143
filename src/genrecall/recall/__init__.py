"""Channels: anything that returns candidates."""
