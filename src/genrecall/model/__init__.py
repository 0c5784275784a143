"""Backbones: from scratch or from Hugging Face."""
