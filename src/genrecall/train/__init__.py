"""Training: every prefix of a history is an example, and only the SID tokens of the answer are paid for."""
