"""An engine in a process of its own, behind a Unix socket: what it does to itself, it does to nobody else."""
