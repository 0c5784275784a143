"""Measurements behind `genrecall bench`."""
