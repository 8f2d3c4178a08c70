"""EWC, SI, LwF, replay, the spectral penalty: where does each let old answers drift, if all learn the new task alike?

A network has learnt the digits 0 to 4 (8 x 8 pixels, from scikit-learn); its head is then trained on 5 to 9 with cross-
entropy by six methods.  The strength of each is tuned until the loss on the new task is the same, so that what they
cost the old task can be compared.  `ntkla.drift_split` says how much of each drift lies inside of the 20 leading modes
of the old kernel, and how much outside.

Before anything is trained it is known who will drift least inside.  The spectral penalty is the drift inside, squared;
so its optimum, of a convex loss, has the least drift inside of all heads that reach the same loss on the new task.

    python tests/examples/methods.py [SEED ...]
"""

import sys
from collections.abc import Callable

import torch
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax

import ntkla

ABOVE, SLACK, RIDGE, KEPT, PROBES, TEMPERATURE = 1.1, 0.02, 1e-3, 20, 100, 2.0
Method = Callable[[torch.nn.Linear], torch.Tensor]


def main(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    pixels, digits = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
    order = torch.randperm(len(digits), generator=draw)
    pixels, digits, held_out = pixels[order] / 16, digits[order], torch.arange(len(digits)) % 3 == 0
    body, first = torch.nn.Linear(64, 100, dtype=torch.float64), torch.nn.Linear(100, 10, dtype=torch.float64)
    for weight in (*body.parameters(), *first.parameters()):
        torch.nn.init.normal_(weight, std=0.1, generator=draw)
    together = torch.nn.Sequential(body, torch.nn.ReLU(), first)
    part = ~held_out & (digits < 5)
    importance = learn_old(together, pixels[part], digits[part])

    def seen(chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.relu(body(pixels[chosen])).detach(), digits[chosen]

    old, new = seen(part), seen(~held_out & (digits >= 5))
    old_test, new_test = seen(held_out & (digits < 5)), seen(held_out & (digits >= 5))
    probes = old[0][:PROBES]
    modes, before = ntkla.eigenmodes(probes, KEPT, bias=True), first(probes).detach()
    penalty = ntkla.SpectralPenalty(modes, before)
    methods = {
        "EWC": by_parameters(first, fisher(first, old[0])),
        "SI": by_parameters(first, importance),
        "LwF": distilled(first, new[0]),
        "replay": lambda head: cross_entropy(head(probes), old[1][:PROBES]),
        "spectral": lambda head: penalty(head(probes)),
    }

    # The training: each method as strong as the same loss on the new task allows.
    objective = new_loss(first, new)
    goal = ABOVE * objective(optimized(first, objective)).item()
    heads = {"naive": stopped_early(first, objective, goal)}
    for name, method in methods.items():
        # The spectral penalty learns a little less than the others: what is known of its drift holds then.
        least = goal if name == "spectral" else goal * (1 - SLACK)
        heads[name] = as_strong_as_allowed(first, objective, method, least)
    print(f"seed {seed}: accuracy on 0 to 4 is {accuracy(first, old_test):.4g} before")
    print("          loss of 5 to 9   accuracy on 5 to 9   on 0 to 4")
    for name, head in heads.items():
        loss, found = objective(head).item(), (accuracy(head, new_test), accuracy(head, old_test))
        print(f"{name:>10}{loss:14.4f}{found[0]:21.4g}{found[1]:12.4g}")
    print(ntkla.drift_split(before, {name: head(probes).detach() for name, head in heads.items()}, modes, tol=1e-8))


def learn_old(network: torch.nn.Sequential, pictures: torch.Tensor, digits: torch.Tensor) -> list[torch.Tensor]:
    """Trains it on the old digits; what SI collects on the way for the head's parameters: `sum -g dw / (dw^2 + xi)`."""
    head = list(network[-1].parameters())
    start, path = [w.detach().clone() for w in head], [torch.zeros_like(w) for w in head]
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for _ in range(100):
        optimizer.zero_grad()
        cross_entropy(network(pictures), digits).backward()
        at = [(w.detach().clone(), w.grad.clone()) for w in head]
        optimizer.step()
        for total, w, (was, gradient) in zip(path, head, at, strict=True):
            total -= gradient * (w.detach() - was)
    moved = [w.detach() - was for w, was in zip(head, start, strict=True)]
    return [total.clamp(min=0.0) / (m.square() + 1e-3) for total, m in zip(path, moved, strict=True)]


def fisher(head: torch.nn.Linear, features: torch.Tensor) -> list[torch.Tensor]:
    """What EWC weighs the parameters by: the mean square of the gradients of log p(y), y drawn from the head itself."""
    p = softmax(head(features).detach(), 1)
    spread = p * (1 - p)
    return [spread.T @ features.square() / len(features), spread.mean(0)]


def by_parameters(first: torch.nn.Linear, importance: list[torch.Tensor]) -> Method:
    start = [w.detach().clone() for w in first.parameters()]

    def penalty(head: torch.nn.Linear) -> torch.Tensor:
        parts = zip(head.parameters(), start, importance, strict=True)
        return torch.stack([(weight * (w - was).square()).sum() for w, was, weight in parts]).sum()

    return penalty


def distilled(first: torch.nn.Linear, features: torch.Tensor) -> Method:
    target = softmax(first(features).detach() / TEMPERATURE, 1)
    return lambda head: kl_div(log_softmax(head(features) / TEMPERATURE, 1), target, reduction="batchmean")


def new_loss(first: torch.nn.Linear, new: tuple[torch.Tensor, torch.Tensor]) -> Method:
    """The loss on the new task, with a ridge: without one its optimum would lie at infinity."""
    squares = by_parameters(first, [torch.full_like(w, RIDGE / 2) for w in first.parameters()])
    return lambda head: cross_entropy(head(new[0]), new[1]) + squares(head)


def stopped_early(first: torch.nn.Linear, objective: Method, goal: float) -> torch.nn.Linear:
    head = copy_of(first)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    while (loss := objective(head)) > goal:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return head


def as_strong_as_allowed(first: torch.nn.Linear, objective: Method, method: Method, least: float) -> torch.nn.Linear:
    """The optimum of the new loss and a penalty that is so strong that the former ends between `least` and SLACK more.

    The stronger the penalty, the larger the new loss at the optimum: halving an interval of strengths finds it.
    """
    low, high = -4.0, 4.0
    for _ in range(30):
        middle = (low + high) / 2
        head = optimized(first, lambda at, strength=10.0**middle: objective(at) + strength * method(at))
        loss = objective(head).item()
        if least <= loss <= least * (1 + SLACK):
            return head
        low, high = (middle, high) if loss < least else (low, middle)
    raise SystemExit(f"no strength reaches a loss of {least}: the last one had {loss}")


def optimized(first: torch.nn.Linear, objective: Method) -> torch.nn.Linear:
    head = copy_of(first)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=150, history_size=20, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = objective(head)
        loss.backward()
        return loss

    optimizer.step(closure)
    return head


def copy_of(head: torch.nn.Linear) -> torch.nn.Linear:
    copy = torch.nn.Linear(head.in_features, head.out_features, dtype=torch.float64)
    copy.load_state_dict(head.state_dict())
    return copy


def accuracy(head: torch.nn.Linear, of: tuple[torch.Tensor, torch.Tensor]) -> float:
    return float((head(of[0]).argmax(1) == of[1]).double().mean())


if __name__ == "__main__":
    for seed in sys.argv[1:] or ["0"]:
        main(int(seed))
