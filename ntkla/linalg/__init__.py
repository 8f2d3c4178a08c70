"""Numerical linear algebra with proved error bounds: the ground floor, which knows nothing of tasks or forgetting.

From the bottom: `precision` and `checks`; `arithmetic`, products whose rounding is known; `backends`, torch or Triton;
`design`, features as exact blocks; operators (`linear_operator`, `operators`, `kronecker`, `softmax`, `layers`); the
primitives of `ops`; and the two solvers, `ridge` on `solve` and `eigenmodes` on `eigen`.
"""
