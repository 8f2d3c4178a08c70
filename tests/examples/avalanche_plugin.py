"""My stream of tasks is trained by Avalanche.  What is left of the first digits at its end, and can a plugin keep them?

The 8 x 8 digits of scikit-learn come two by two, in five experiences; each has one Avalanche strategy, plain SGD on the
head of a network whose body stays as it is.  `SpectralPenaltyPlugin` is a `SupervisedPlugin`: after an experience it
keeps 40 of its pictures and the leading modes of their kernel; before each backward pass it adds their penalties to the
loss.  Before an experience is trained, the forecast says what it will do to all digits seen so far.

    pip install avalanche-lib==0.6.0 && python tests/examples/avalanche_plugin.py
"""

import torch
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.training.plugins import SupervisedPlugin
from avalanche.training.supervised import Naive
from sklearn.datasets import load_digits

import ntkla

STEPS, LEARNING_RATE, STRENGTH, KEPT, PROBES = 150, 0.2, 2.0, 10, 40


class SpectralPenaltyPlugin(SupervisedPlugin):
    """Holds the outputs on the digits seen so far still, along the leading modes of their kernel."""

    def __init__(self, layer: str):
        super().__init__()
        self.layer = layer
        self.protections: list[ntkla.Protection] = []
        self.pictures: list[torch.Tensor] = []

    def before_backward(self, strategy, **kwargs):
        # The criterion is a mean over samples and outputs, 2 / (n C) times the sum that ntkla's closed form is of.
        factor = 2 / strategy.mb_output.numel()
        for protection, pictures in zip(self.protections, self.pictures, strict=True):
            strategy.loss = strategy.loss + factor * protection.penalty(strategy.model(pictures))

    def after_training_exp(self, strategy, **kwargs):
        dataset = strategy.experience.dataset
        pictures = torch.stack([dataset[i][0] for i in range(PROBES)])
        weight = STRENGTH * 10 * KEPT / 2
        penalty = ntkla.SpectralPenalty.from_model(
            strategy.model, [pictures], KEPT, layer=self.layer, weight=weight, dtype=torch.float64
        )
        features = ntkla.models.features(strategy.model, [pictures], layer=self.layer, dtype=torch.float64).features
        self.protections.append(ntkla.Protection(penalty, features))
        self.pictures.append(pictures)


def main() -> None:
    pixels, digits = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
    pixels, held_out = pixels / 16, torch.arange(len(digits)) % 3 == 0
    pairs = [digits // 2 == i for i in range(5)]
    train, test = ([(pixels[p & part], digits[p & part]) for p in pairs] for part in (~held_out, held_out))
    for name, plugins in (("Naive", []), ("SpectralPenaltyPlugin", [SpectralPenaltyPlugin(layer="body")])):
        print(f"{name}: accuracy on the digits before the experience: before it, forecast, trained")
        run(train, test, plugins)


def run(train, test, plugins: list[SpectralPenaltyPlugin]) -> None:
    """Trains a fresh head on the stream; each experience after the first is forecast, trained and compared."""
    model = network()
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.head.parameters(), lr=LEARNING_RATE),
        criterion=lambda out, y: torch.nn.functional.mse_loss(out, torch.nn.functional.one_hot(y, 10).to(out.dtype)),
        train_mb_size=1000,
        train_epochs=STEPS,
        plugins=plugins,
        evaluator=None,
    )
    for i, experience in enumerate(benchmark_from_datasets(train=[dataset(*part) for part in train]).train_stream):
        if i == 0:
            strategy.train(experience)
            continue
        head, old, new = head_of(model), task(model, test[:i]), task(model, [train[i]])
        sgd = ntkla.from_torch_sgd(lr=LEARNING_RATE, steps=STEPS, samples=len(new.targets), outputs=10)
        protections = [protection for plugin in plugins for protection in plugin.protections]
        report = ntkla.forecast(old, new, head, ridge=0.0, training=sgd.training, penalty=protections)
        strategy.train(experience)
        fact = ntkla.post_mortem(report, old, head, head_of(model))
        accuracies = (fact.accuracy_before, report.accuracy_forecast, fact.accuracy_after)
        print(f"  experience {i}" + "".join(f"{accuracy!s:>12}" for accuracy in accuracies) + f"   {fact.verdict}")


def network() -> torch.nn.Module:
    """A frozen body of random features and a head of ten outputs that begins at zero."""
    model = torch.nn.Sequential()
    model.body = torch.nn.Sequential(torch.nn.Linear(64, 200), torch.nn.ReLU())
    model.head = torch.nn.Linear(200, 10)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.body.parameters():
            weight.copy_(torch.randn(weight.shape, generator=draw) / 8)
        for weight in model.head.parameters():
            weight.zero_()
    model.body.requires_grad_(False)
    return model.double()


def dataset(pictures: torch.Tensor, digits: torch.Tensor):
    data = torch.utils.data.TensorDataset(pictures, digits)
    data.targets = digits.tolist()
    return as_classification_dataset(data)


def head_of(model: torch.nn.Module) -> ntkla.LinearHead:
    return ntkla.LinearHead(model.head.weight.detach().clone(), model.head.bias.detach().clone())


def task(model: torch.nn.Module, parts: list[tuple[torch.Tensor, torch.Tensor]]) -> ntkla.Task:
    pictures, digits = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    found = ntkla.models.features(model, [pictures], layer="body", dtype=torch.float64)
    return ntkla.Task.from_labels(found.features, digits, classes=10)


if __name__ == "__main__":
    main()
