"""GPU kernels: one folder an operation, with contract, torch reference and formula."""
