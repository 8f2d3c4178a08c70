"""Numbers that the host decides by.  On a device each reading waits until all that was asked for is computed."""

from __future__ import annotations

import torch


def reads_are_free(device: torch.device) -> bool:
    """Whether a decision on the host is cheaper than computing both of its outcomes: on the CPU nothing waits."""
    return device.type == "cpu"


def numbers(*values: torch.Tensor) -> list[float]:
    """Scalars of one device as floats, in one reading."""
    if not values:
        return []
    found: list[float] = torch.stack([value.detach().to(torch.float64) for value in values]).tolist()
    return found
