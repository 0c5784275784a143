"""One directory under one digest: all that answering needs."""
