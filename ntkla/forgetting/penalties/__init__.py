"""What protects old outputs: the spectral penalty, its probes, and its part in the closed forms."""
