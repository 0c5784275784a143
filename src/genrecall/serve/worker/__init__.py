"""The generative channel in a process of its own: frames, messages, the process, and the gateway's side of it."""
