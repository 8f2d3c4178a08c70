"""May I fine-tune this head on the new task?

The head tells three classes apart in 50 features.  Two new tasks ask to be trained on, and five points of accuracy may
be lost: one draws the borders of the classes a little differently, the other anew.  Ten lines ask; the three at the end
really train, to the optimum, without ntkla.

    python tests/examples/synthetic.py
"""

import torch

import ntkla

draw = torch.Generator().manual_seed(0)
x_old, x_new = torch.randn(2000, 50, generator=draw), torch.randn(2000, 50, generator=draw)
rule, another = torch.randn(50, 3, generator=draw), torch.randn(50, 3, generator=draw)
old = ntkla.Task.from_labels(x_old, (x_old @ rule).argmax(1), classes=3)
head = ntkla.LinearHead(ntkla.ridge_solve(old.features, old.targets, ridge=1.0).solution.T)
for name, share in (("drawn a little differently", 0.05), ("drawn anew", 1.0)):
    labels_new = (x_new @ ((1 - share) * rule + share * another)).argmax(1)
    new = ntkla.Task.from_labels(x_new, labels_new, classes=3)
    report = ntkla.forecast(old, new, head, ridge=1.0)
    answer = "yes" if report.accuracy_forecast.low >= report.accuracy_before.high - 0.05 else "no"
    print(f"Classes {name}: may I? {answer}\n{report}")

    # The training: the optimum of the same loss, from its normal equations.
    phi = x_new.double()
    step = torch.linalg.solve(phi.T @ phi + 1.0 * torch.eye(50), phi.T @ (new.targets - head(x_new)))
    hits = (x_old.double() @ (head.weight.T + step)).argmax(1) == old.labels
    print(f"  trained       accuracy {hits.double().mean():.6g}\n")
