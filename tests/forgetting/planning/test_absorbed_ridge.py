"""A ridge that vanishes beside the rounding of a huge penalty is a ridge all the same."""

from __future__ import annotations

import torch

import ntkla


def test_a_ridge_that_rounding_swallows_is_not_taken_for_none():
    """One protected direction of three with weight 1e30, ridge 1e-6: the two others are free to fit the target.

    Their eigenvalues are rounding, beside which the ridge is lost; the bound then has to say that nothing is known.
    """
    for seed in range(20):
        draw = torch.Generator().manual_seed(seed)
        x_new, x_old = (torch.randn((n, 3), generator=draw, dtype=torch.float64) for n in (1, 4))
        new = ntkla.Task(x_new, torch.ones((1, 1), dtype=torch.float64))
        head = ntkla.LinearHead(torch.zeros((1, 3), dtype=torch.float64))
        plan = ntkla.plan(ntkla.Task(x_old), new, head, ridges=[1e-6], weights=[1e30], modes=[1])
        point = plan.points[-1]
        mode = torch.linalg.svd(x_old, full_matrices=False).Vh[0]
        free = x_new[0] - (x_new[0] @ mode) * mode
        # What the ridge leaves of a target of 1 in the free directions.
        loss = 0.5 * 1e-6 / (1e-6 + float(free @ free))
        assert point.new.loss - point.new.loss_error <= loss
