"""HF causal language models: small ones from scratch, pretrained ones with SID tokens added."""
