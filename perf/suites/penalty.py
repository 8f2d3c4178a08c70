"""Suite `penalty`: what `SpectralPenalty` adds to a training step, alone and with its probes' own pass.

The step is the forward and backward pass of a ResNet-18 (11.7 million parameters).  The penalty needs the outputs on
its probes: that pass is what any method costs that looks at old samples, and it is told apart from the penalty itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch

from ntkla.forgetting.penalties.spectral_penalty import SpectralPenalty
from ntkla.linalg.eigenmodes import eigenmodes
from perf.harness import Case, Contender, Specification, Work
from perf.suites.penalty_judge import Judge, Step
from perf.suites.penalty_network import resnet18

BASELINE = "ResNet-18 step"
MEMORY = False  # the network's activations are all of it
PENALTY, WITH_PENALTY, REPLAY = "ntkla penalty alone", "step + ntkla penalty", "step + replay"
_PATIENCE = 20.0  # a step of the network takes a second on a core


@dataclass(frozen=True)
class Setting:
    """One case: a batch for the network, and a penalty of k modes on so many probes in the network's outputs."""

    batch: int
    pixels: int
    probes: int
    k: int
    outputs: int
    features: int = 512

    @property
    def name(self) -> str:
        return (
            f"batch of {self.batch}, {self.pixels} x {self.pixels}, "
            f"{self.probes} probes, {self.outputs} outputs, k = {self.k}"
        )


_FULL = (Setting(32, 64, 100, 20, 10), Setting(32, 64, 100, 100, 1000))
_SMALL = (Setting(2, 32, 20, 5, 10),)


def specifications(size: str, device: torch.device) -> list[Specification]:
    """The suite's cases, not yet built."""
    settings = _SMALL if size == "small" else _FULL
    return [Specification(s.name, asdict(s), partial(build, s, device), _PATIENCE) for s in settings]


def build(setting: Setting, device: torch.device) -> Case:
    """The network's step by itself, the penalty by itself on outputs that lie ready, and both in one step."""
    draw = torch.Generator().manual_seed(0)
    network = resnet18(setting.outputs, draw).to(device)
    images, probes = (
        torch.randn((n, 3, setting.pixels, setting.pixels), generator=draw).to(device)
        for n in (setting.batch, setting.probes)
    )
    labels = torch.randint(setting.outputs, (setting.batch,), generator=draw).to(device)
    features = torch.randn((setting.probes, setting.features), generator=draw).to(device)
    reference = torch.randn((setting.probes, setting.outputs), generator=draw).to(device)
    outputs = (reference + torch.randn(reference.shape, generator=draw).to(device)).requires_grad_()
    penalty = SpectralPenalty(eigenmodes(features, setting.k), reference)

    def alone() -> Step:
        outputs.grad = None
        total = penalty(outputs)
        total.backward()  # type: ignore[no-untyped-call]
        return Step(total, outputs=outputs.detach())

    def step(kept: Callable[[torch.Tensor], torch.Tensor] | None = None) -> Step:
        network.zero_grad()
        logits = network(images)
        total = torch.nn.functional.cross_entropy(logits, labels)
        said = None if kept is None else network(probes)
        if kept is not None:
            total = total + kept(said)
        total.backward()  # type: ignore[no-untyped-call]
        return Step(total, logits.detach(), None if said is None else said.detach())

    small = Work(4.0 * setting.probes * setting.k * setting.outputs, 4.0 * 3 * reference.numel(), "float32")
    whole = Work(6.0 * _products(network, setting), 0.0, "float32")
    both = Work(whole.operations * (1 + setting.probes / setting.batch), 0.0, "float32")
    together = "with the probes' own forward and backward pass"
    contenders = [
        Contender(BASELINE, step, whole),
        Contender(PENALTY, alone, small, ours=True, note="outputs on the probes lie ready"),
        Contender(
            REPLAY,
            partial(step, lambda said: said.square().mean()),
            both,
            note=f"a mean of squares on the probes in place of the penalty, {together}",
        ),
        Contender(WITH_PENALTY, partial(step, penalty), both, ours=True, note=together),
    ]
    return Case(contenders, {}, Judge(penalty, labels, REPLAY))


def _products(network: torch.nn.Module, setting: Setting) -> float:
    """Multiply-adds of one forward pass of the batch."""
    found = [0.0]

    def count(module: torch.nn.Module, _: Any, output: torch.Tensor) -> None:
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            found[0] += output.numel() * module.weight[0].numel()

    handles = [module.register_forward_hook(count) for module in network.modules()]
    with torch.no_grad():
        device = next(network.parameters()).device
        network(torch.zeros((2, 3, setting.pixels, setting.pixels), device=device))
    for handle in handles:
        handle.remove()
    return found[0] * setting.batch / 2
