"""I must teach my digit classifier 5 to 9, and 0 to 4 may fall to 90 %.  How few directions do I have to hold still?

A small network has learnt to tell the digits 0 to 4 apart (8 x 8 pixels, from scikit-learn).  Its body stays as it is;
its head of ten outputs learns 5 to 9, beside a spectral penalty on 100 pictures that were kept of the old digits.  The
forecast says for 0, 5, 10 and 20 protected directions what is left of the old digits and what the new ones gain.  Then
a plain PyTorch loop trains with each of them.

    python tests/examples/protect.py
"""

import torch
from sklearn.datasets import load_digits

import ntkla

ACCEPTED, RIDGE, STRENGTH = 0.9, 10.0, 10.0
DIRECTIONS = (0, 5, 10, 20)


def main() -> None:
    pixels, digits = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
    pixels, held_out = pixels.float() / 16, torch.arange(len(digits)) % 3 == 0
    body = trained_body(pixels[~held_out & (digits < 5)], digits[~held_out & (digits < 5)])

    def task(chosen: torch.Tensor) -> ntkla.Task:
        return ntkla.Task.from_labels(body(pixels[chosen]).detach(), digits[chosen], classes=10)

    # The head, trained on 0 to 4, and the pictures that are kept of them.
    old, new = task(~held_out & (digits < 5)), task(~held_out & (digits >= 5))
    tests = {"0 to 4": task(held_out & (digits < 5)), "5 to 9": task(held_out & (digits >= 5))}
    fitted = ntkla.ridge_solve(old.features, old.targets, ridge=1.0, bias=True)
    head = ntkla.LinearHead(fitted.solution.T, fitted.bias)
    probes = old.features[:100]
    penalties = {k: protecting(k, probes, head) for k in DIRECTIONS}

    # The forecast, before a single step.
    forecasts = {
        k: ntkla.forecast(tests, new, head, ridge=RIDGE, penalty=[ntkla.Protection(p, probes) for p in some])
        for k, some in penalties.items()
    }
    enough = [k for k, report in forecasts.items() if report["0 to 4"].accuracy_forecast.low >= ACCEPTED]
    print(f"If 0 to 4 may fall to {ACCEPTED:.0%}: hold {min(enough)} directions still, of {probes.shape[1] + 1}.\n")

    # The training, and what it did.
    modes = ntkla.eigenmodes(probes, max(DIRECTIONS), bias=True)
    print(
        "directions"
        + "".join(f"{name:>12} forecast  trained" for name in tests)
        + "   drift inside, outside   difference"
    )
    for k, reports in forecasts.items():
        after = train(head, new, penalties[k], probes)
        facts = {name: ntkla.post_mortem(reports[name], asked, head, after) for name, asked in tests.items()}
        print(f"{k:10d}", end="")
        for name, fact in facts.items():
            print(
                f"{fact.accuracy_before!s:>12}{reports[name].accuracy_forecast!s:>9}{fact.accuracy_after!s:>9}", end=""
            )
        split = ntkla.drift_split(head(probes), after(probes), modes)
        worst = max(fact.relative_difference for fact in facts.values())
        print(f"{split.inside!s:>15}{split.outside!s:>9}{worst:13.0e}")


def protecting(k: int, probes: torch.Tensor, head: ntkla.LinearHead) -> list[ntkla.SpectralPenalty]:
    """Holds k directions of the probes' kernel still, each with the same strength however many they are."""
    if k == 0:
        return []
    weight = STRENGTH * head.outputs * k / 2
    return [ntkla.SpectralPenalty(ntkla.eigenmodes(probes, k, bias=True), head(probes), weight)]


def trained_body(pictures: torch.Tensor, digits: torch.Tensor) -> torch.nn.Module:
    """The layers below the head of a network that was trained to tell the old digits apart."""
    body = torch.nn.Sequential(torch.nn.Linear(64, 100), torch.nn.ReLU(), torch.nn.Linear(100, 60), torch.nn.ReLU())
    network = torch.nn.Sequential(body, torch.nn.Linear(60, 5))
    draw = torch.Generator().manual_seed(0)
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.1, generator=draw)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(pictures), digits).backward()
        optimizer.step()
    return body


def train(head, new, penalties, probes) -> ntkla.LinearHead:
    """The head after the training, by torch alone, in float64."""
    layer = torch.nn.Linear(*reversed(head.weight.shape), dtype=torch.float64)
    layer.load_state_dict({"weight": head.weight, "bias": head.bias})
    start = [weight.detach().clone() for weight in layer.parameters()]
    for penalty in penalties:
        penalty.check_reference(layer(probes.double()))  # nothing has moved yet: else these would be other probes
    x_new, x_probes = new.features.double(), probes.double()
    optimizer = torch.optim.LBFGS(
        layer.parameters(), max_iter=800, history_size=100, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        total = (layer(x_new) - new.targets).square().sum() / 2
        for weight, before in zip(layer.parameters(), start, strict=True):
            total = total + RIDGE / 2 * (weight - before).square().sum()
        for penalty in penalties:
            total = total + penalty(layer(x_probes))
        total.backward()
        return total

    optimizer.step(loss)
    return ntkla.LinearHead(layer.weight, layer.bias)


if __name__ == "__main__":
    main()
