"""Where in the kernel's spectrum a drift lives: energies, ranks, overlaps, and single samples."""
