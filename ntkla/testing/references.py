"""Plain dense float64 references: each is the formula as written, in one or two lines, with no thought for speed.

They carry ordinary rounding errors; `ntkla.testing.ridge_solution` and its neighbours in ball arithmetic carry none.
Shapes: n samples, F features (the bias counted where `with_bias` was used), C outputs; matrices [n, C], one row a
sample.  Equations: arXiv 2606.18024, Proposition 1.
"""

from __future__ import annotations

import torch

from ntkla.linalg import checks


def with_bias(features: torch.Tensor) -> torch.Tensor:
    """float64 features [n, F + 1] with a last column of ones."""
    ones = torch.ones((features.shape[0], 1), dtype=torch.float64, device=features.device)
    return torch.cat([features.to(torch.float64), ones], 1)


def dense_ridge_solution(
    features: torch.Tensor, targets: torch.Tensor, ridge: float, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """(Phi^T Phi + ridge I)^-1 Phi^T T, [F, C], by the singular values of Phi; ridge 0 gives Phi^+ T.

    With weights [n] it is that of Phi and T with their rows times the roots of the weights.
    """
    phi, t = _root_weighted(features, weights), _root_weighted(targets, weights)
    u, s, vt = torch.linalg.svd(phi, full_matrices=False)
    shrunk = torch.linalg.pinv(phi) @ t if ridge == 0 else vt.T @ ((s / (s * s + ridge))[:, None] * (u.T @ t))
    return torch.as_tensor(shrunk)


def _root_weighted(x: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    wide = x.to(torch.float64)
    return wide if weights is None else wide * weights.to(torch.float64).sqrt()[:, None]


def dense_drift_primal(
    features_old: torch.Tensor,
    features_new: torch.Tensor,
    residual_new: torch.Tensor,
    ridge: float,
    weight_decay: float = 0.0,
    head: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """dF_A = -Phi_A (S + (ridge + weight_decay) I)^-1 (Phi_B^T R_B + weight_decay W_A^T), [n_A, C].

    Here S = Phi_B^T Phi_B, and head is W_A, [C, F] (None counts as zero).  With weights [n_B] the rows of Phi_B and R_B
    are taken times their roots.
    """
    old, new = features_old.to(torch.float64), _root_weighted(features_new, weights)
    gradient = new.T @ _root_weighted(residual_new, weights)
    if head is not None:
        gradient = gradient + weight_decay * head.to(torch.float64).T
    identity = torch.eye(new.shape[1], dtype=torch.float64, device=new.device)
    update = torch.linalg.solve(new.T @ new + (ridge + weight_decay) * identity, gradient)
    return torch.matmul(old, update).neg()


def dense_drift_penalised(
    features_old: torch.Tensor,
    features_new: torch.Tensor,
    residual_new: torch.Tensor,
    ridge: float,
    basis: torch.Tensor,
    weight: float,
) -> torch.Tensor:
    """The drift with `weight/(C k) ||U^T Phi_A dW^T||^2` in the objective: U is `basis`, [n_A, k], of the old features.

    dF_A = -Phi_A (S + c Z^T Z + ridge I)^-1 Phi_B^T R_B, Z = U^T Phi_A, c = 2 weight/(C k).
    """
    old, new, r = (x.to(torch.float64) for x in (features_old, features_new, residual_new))
    rows = basis.to(torch.float64).T @ old
    penalty = 2 * weight / (r.shape[1] * basis.shape[1]) * (rows.T @ rows)
    identity = torch.eye(new.shape[1], dtype=torch.float64, device=new.device)
    return torch.matmul(old, torch.linalg.solve(new.T @ new + penalty + ridge * identity, new.T @ r)).neg()


def dense_drift_dual(
    features_old: torch.Tensor, features_new: torch.Tensor, residual_new: torch.Tensor, ridge: float
) -> torch.Tensor:
    """dF_A = -G_AB (G_BB + ridge I)^-1 R_B, [n_A, C]."""
    old, new = features_old.to(torch.float64), features_new.to(torch.float64)
    identity = torch.eye(new.shape[0], dtype=torch.float64, device=new.device)
    weights = torch.linalg.solve(new @ new.T + ridge * identity, residual_new.to(torch.float64))
    return torch.matmul(old @ new.T, weights).neg()


def dense_kronecker(gram: torch.Tensor, outputs: int, order: str = "class") -> torch.Tensor:
    """K = I_C (x) G for `order="class"` (class-major vec, the paper's) or G (x) I_C for `"sample"`, [nC, nC].

    Raises:
        ArgumentError: another order.
    """
    checks.choice("order", order, ("class", "sample"))
    identity = torch.eye(outputs, dtype=gram.dtype, device=gram.device)
    return torch.kron(identity, gram) if order == "class" else torch.kron(gram, identity)


def vec(matrix: torch.Tensor, order: str = "class") -> torch.Tensor:
    """A matrix [n, C] as the vector [nC] that `dense_kronecker` of the same order acts on.

    Raises:
        ArgumentError: another order.
    """
    checks.choice("order", order, ("class", "sample"))
    return (matrix.T if order == "class" else matrix).reshape(-1)


def dense_drift_kronecker(
    features_old: torch.Tensor,
    features_new: torch.Tensor,
    residual_new: torch.Tensor,
    ridge: float,
    order: str = "class",
) -> torch.Tensor:
    """The drift with every kernel formed in full: -K_AB (K_BB + ridge I)^-1 vec(R_B), back as [n_A, C]."""
    old, new = features_old.to(torch.float64), features_new.to(torch.float64)
    outputs = residual_new.shape[1]
    k_ab, k_bb = (dense_kronecker(left @ new.T, outputs, order) for left in (old, new))
    identity = torch.eye(k_bb.shape[0], dtype=torch.float64, device=new.device)
    weights = torch.linalg.solve(k_bb + ridge * identity, vec(residual_new.to(torch.float64), order))
    drift = torch.matmul(k_ab, weights).neg()
    return drift.reshape(outputs, -1).T if order == "class" else drift.reshape(-1, outputs)


def looped_gradient_descent(
    features: torch.Tensor,
    residual: torch.Tensor,
    *,
    lr: float,
    steps: int,
    momentum: float = 0.0,
    nesterov: bool = False,
    penalty: float = 0.0,
    decay: float = 0.0,
    start: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """dW^T after `steps` full-batch steps as `torch.optim.SGD` makes them (dampening 0), [F, C], by a loop.

    The loss is 1/2 ||Phi W^T - Y||^2 + penalty/2 ||W - W_A||^2 + decay/2 ||W||^2; `start` is W_A^T, [F, C], or None
    for zeros (the residual at the start is given, so only the decay sees it).  Weights [n] multiply their losses.
    """
    phi, r = _root_weighted(features, weights), _root_weighted(residual, weights)
    change = torch.zeros((phi.shape[1], r.shape[1]), dtype=torch.float64, device=phi.device)
    begin = torch.zeros_like(change) if start is None else start.to(torch.float64)
    velocity = torch.zeros_like(change)
    for _ in range(steps):
        gradient = phi.T @ (phi @ change + r) + penalty * change + decay * (begin + change)
        velocity = momentum * velocity + gradient
        change = change - lr * (gradient + momentum * velocity if nesterov else velocity)
    return change
