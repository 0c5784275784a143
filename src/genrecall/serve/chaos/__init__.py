"""Promises of the service, and the means to break them on your own machine."""
