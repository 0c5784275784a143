"""Training of modules that read items, not tokens: small models, whole steps as CUDA graphs."""
