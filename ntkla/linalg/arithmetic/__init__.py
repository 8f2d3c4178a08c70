"""Products and sums whose rounding is known: in pieces, in slices, and beyond float64."""
