"""Item text to vectors: templates, encoders that need no network, and the stored vectors."""
