"""The probe of the rounding model passes ordinary products and notices those that only keep a bound in norm."""

import pytest
import torch

import ntkla
from ntkla.app.command_line.info import describe
from ntkla.linalg.arithmetic import probe
from ntkla.linalg.arithmetic.probe import conventional_products, keeps_the_bound, require_conventional_products
from ntkla.linalg.errors import BackendError

CPU = torch.device("cpu")


def strassen(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """One level of Strassen's recursion."""
    m, k, n = a.shape[0] // 2, a.shape[1] // 2, b.shape[1] // 2
    a11, a12, a21, a22 = a[:m, :k], a[:m, k:], a[m:, :k], a[m:, k:]
    b11, b12, b21, b22 = b[:k, :n], b[:k, n:], b[k:, :n], b[k:, n:]
    p1, p2, p3 = (a11 + a22) @ (b11 + b22), (a21 + a22) @ b11, a11 @ (b12 - b22)
    p4, p5 = a22 @ (b21 - b11), (a11 + a12) @ b22
    p6, p7 = (a21 - a11) @ (b11 + b12), (a12 - a22) @ (b21 + b22)
    return torch.cat([torch.cat([p1 + p4 - p5 + p7, p3 + p5], 1), torch.cat([p2 + p4, p1 - p2 + p3 + p6], 1)])


def on_a_grid(x: torch.Tensor, dim: int) -> torch.Tensor:
    """53 bits for the largest entry of each row (or column), and the same grid for the rest of it."""
    unit = torch.exp2(torch.ceil(torch.log2(x.abs().amax(dim, keepdim=True))) - 53)
    return torch.round(x / unit) * unit


WRONG = {
    "strassen": strassen,
    "fixed-point": lambda a, b: on_a_grid(a, 1) @ on_a_grid(b, 0),
    "float32": lambda a, b: (a.float() @ b.float()).double(),
    "not a number": lambda a, b: a @ b * torch.nan,
    "infinite": lambda a, b: a @ b * torch.inf,
    "one entry": lambda a, b: (a @ b).index_put_((torch.tensor(31), torch.tensor(7)), torch.tensor(0.0).double()),
}


@pytest.mark.parametrize("multiply", WRONG.values(), ids=WRONG.keys())
def test_planted_products_are_noticed(multiply):
    assert not keeps_the_bound(multiply, CPU)


def test_ordinary_products_pass():
    assert keeps_the_bound(torch.matmul, CPU)
    require_conventional_products(CPU)


@pytest.fixture
def broken_machine(monkeypatch):
    monkeypatch.setattr(probe, "pieced_matmul", strassen)
    conventional_products.cache_clear()
    yield
    conventional_products.cache_clear()


def test_a_broken_machine_is_refused(broken_machine):
    with pytest.raises(BackendError, match="Strassen"):
        require_conventional_products(CPU)
    x = torch.ones((3, 2), dtype=torch.float64)
    for solve in (lambda: ntkla.ridge_solve(x, x, ridge=1.0), lambda: ntkla.eigenmodes(x, 1)):
        with pytest.raises(BackendError, match="no error bound would hold"):
            solve()
    assert "BREAK their rounding bound" in describe()


def test_info_tells_the_outcome():
    assert "within their rounding bound (probed)" in describe()
