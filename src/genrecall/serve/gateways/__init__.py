"""Several gateway processes in front of the same workers: who starts what, and what they share."""
