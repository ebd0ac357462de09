"""The five pretraining tasks as pure functions: keyed draws (NumPy) and losses (torch)."""
