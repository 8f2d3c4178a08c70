"""What the tests of `SoftmaxGram` compare with: rows of every kind, and the operator in balls and in float64."""

from __future__ import annotations

import torch

from ntkla.testing import Exact, ball_matrix, design_matrix
from ntkla.testing.balls import flint

N, C = 7, 4


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64, device="cpu")


def generator(seed: int) -> torch.Generator:
    return torch.Generator(device="cpu").manual_seed(seed)


FEATURES = normal(N, 5)


def probabilities(n: int, outputs: int, kind: str, seed: int = 0) -> torch.Tensor:
    """Rows of every kind that a softmax can leave, and some that it cannot; float64 [n, C]."""
    logits = normal(n, outputs, seed=seed)
    one_hot = torch.nn.functional.one_hot(logits.argmax(1), outputs).to(torch.float64)
    mixed = logits * 4.0 ** torch.arange(n, dtype=torch.float64)[:, None].clamp(max=4)
    rows = {
        "soft": torch.softmax(logits, 1),
        "uniform": torch.ones_like(logits),
        "confident": torch.softmax(30.0 * logits, 1),
        "mixed": torch.softmax(mixed, 1),
        "one-hot": one_hot,
        "zeros": torch.softmax(logits, 1) * (logits >= logits.median(1, keepdim=True).values),
        "nearly one-hot": one_hot + 1e-300 * torch.rand(n, outputs, generator=generator(seed), dtype=torch.float64),
        "subnormal": 5e-324 * torch.randint(1, 9, (n, outputs), generator=generator(seed)).to(torch.float64),
        "tiny": 1e-300 * torch.softmax(logits, 1),
        "huge": 1e70 * torch.softmax(logits, 1),
        "half": torch.nn.functional.one_hot(logits.argmax(1), outputs)
        + torch.eye(outputs).roll(1, 0)[logits.argmax(1)],
    }
    return rows[kind].to(torch.float64)


KINDS = (
    "soft", "uniform", "confident", "mixed", "one-hot", "zeros", "nearly one-hot", "subnormal", "tiny", "huge", "half"
)  # fmt: skip


def exact_root(p: torch.Tensor, order: str):
    """B [nC, nC] in balls: of each stored row over its exact sum."""
    n, outputs = p.shape
    rows, root = ball_matrix(p).tolist(), flint().arb_mat(n * outputs, n * outputs)
    for i, row in enumerate(rows):
        share = [entry / sum(row, flint().arb(0)) for entry in row]
        q = [entry.nonnegative_part().sqrt() for entry in share]
        for c in range(outputs):
            for e in range(outputs):
                at = (c * n + i, e * n + i) if order == "class" else (i * outputs + c, i * outputs + e)
                root[at] = (q[c] if c == e else 0) - share[c] * q[e]
    return root


def expanded(matrix, outputs: int, order: str):
    """I_C (x) matrix, or matrix (x) I_C, in balls."""
    rows, columns = matrix.nrows(), matrix.ncols()
    out = flint().arb_mat(rows * outputs, columns * outputs)
    for c in range(outputs):
        for i in range(rows):
            for j in range(columns):
                at = (c * rows + i, c * columns + j) if order == "class" else (i * outputs + c, j * outputs + c)
                out[at] = matrix[i, j]
    return out


def exact_factor(features: torch.Tensor, p: torch.Tensor, order: str, bias: bool = False):
    """H = B^T (I (x) Phi) in balls: the kernel is H H^T."""
    return exact_root(p, order).transpose() * expanded(design_matrix(features, bias), p.shape[1], order)


def exact_product(features, p, v, order, bias=False) -> Exact:
    def compute():
        factor = exact_factor(features, p, order, bias)
        return factor * (factor.transpose() * ball_matrix(v))

    return Exact(compute)


def exact_half(p: torch.Tensor, drift: torch.Tensor) -> Exact:
    def compute():
        balls = (exact_root(p, "sample").transpose() * ball_matrix(drift.reshape(-1))).entries()
        return flint().arb_mat(*drift.shape, balls)

    return Exact(compute)


def dense_root(p: torch.Tensor) -> torch.Tensor:
    """B, [n, C, C]."""
    q = p / p.sum(1, keepdim=True)
    return torch.diag_embed(q.sqrt()) - q[:, :, None] * q.sqrt()[:, None]


def dense(features: torch.Tensor, p: torch.Tensor, order: str) -> torch.Tensor:
    root, size = dense_root(p), p.numel()
    matrix = torch.einsum("icd,ij,jce->idje", root, features @ features.T, root)
    return (matrix.permute(1, 0, 3, 2) if order == "class" else matrix).reshape(size, size)
