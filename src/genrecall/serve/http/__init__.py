"""HTTP: the gate that every request passes, the handlers behind it, the process that listens."""
