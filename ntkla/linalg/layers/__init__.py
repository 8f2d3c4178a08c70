"""Tangent kernels of layers from activations and deltas, without a Jacobian."""
