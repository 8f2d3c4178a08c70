"""What multiplies: torch or a Triton kernel, by which table, and how a call says what ran."""
