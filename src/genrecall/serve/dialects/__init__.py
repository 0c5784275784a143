"""Protocols of others over the same service, for clients that exist already."""
