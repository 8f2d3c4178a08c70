"""Small modules whose features are known by hand, and what must be found again as it was."""

from __future__ import annotations

import torch
from torch import nn

from ntkla.linalg.precision import UNIT_ROUNDOFF


class Images(nn.Module):
    """A convolution with batch norm, an in-place step after it, dropout, and a count of its own calls."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5), nn.ReLU(inplace=True), nn.Dropout(0.5))
        self.head = nn.Linear(5, 3)
        self.register_buffer("calls", torch.zeros(()))
        self.stop_after = -1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls == self.stop_after:
            raise RuntimeError("midway")
        return self.head(self.body(x).mean((2, 3)))


class Tokens(nn.Module):
    """Vectors for tokens, as Hugging Face modules take and give them."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 6)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        return {"last_hidden_state": self.table(input_ids), "pooler_output": self.table(input_ids[:, 0])}


class Returns(nn.Module):
    """Returns what it was made with, whatever comes in."""

    def __init__(self, output: object) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: torch.Tensor) -> object:
        return self.output


def state_of(module: nn.Module) -> tuple:
    flags = [part.training for part in module.modules()]
    hooks = [len(part._forward_hooks) for part in module.modules()]
    tensors = {
        name: (x, x.clone(), x._version, x.requires_grad) for name, x in module.state_dict(keep_vars=True).items()
    }
    return flags, hooks, tensors


def assert_as_before(module: nn.Module, before: tuple) -> None:
    flags, hooks, tensors = state_of(module)
    assert (flags, hooks) == before[:2]
    for name, (x, value, _, trained) in tensors.items():
        same, then, _, trained_then = before[2][name]
        assert x is same
        assert torch.equal(value, then)
        assert trained == trained_then


def expected(module: Images, inputs: torch.Tensor, of: str = "output") -> torch.Tensor:
    """The features by hand, in evaluation mode."""
    with torch.no_grad():
        conv, norm = module.body[0], module.body[1]
        x = nn.functional.batch_norm(conv(inputs), norm.running_mean, norm.running_var, norm.weight, norm.bias)
        if of == "norm":
            return x.mean((2, 3), dtype=torch.float64)
        x = x.relu().mean((2, 3))
        return module.head(x)


def close(found: torch.Tensor, wanted: torch.Tensor, terms: int = 100) -> bool:
    """Equal but for float32 rounding of sums of at most so many terms."""
    slack = terms * UNIT_ROUNDOFF[torch.float32] * float(wanted.abs().max())
    return found.shape == wanted.shape and bool(((found - wanted).abs() <= slack).all())
