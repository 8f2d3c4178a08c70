"""Ridge problems: factors, residuals, refinement, and the certificate of a solution."""
