"""The service: generative recall beside classic channels, behind HTTP."""
