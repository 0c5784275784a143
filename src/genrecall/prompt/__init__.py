"""Users' histories and profiles as the token sequences after which the model writes a SID."""
