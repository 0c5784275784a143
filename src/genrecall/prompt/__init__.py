"""Profiles and histories as token sequences."""
