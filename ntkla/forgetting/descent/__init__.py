"""Training that stops early: optimisers, their spectral filters, and what rounding does through them."""
