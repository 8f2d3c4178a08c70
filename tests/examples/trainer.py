"""The Hugging Face Trainer fine-tunes my text classifier.  How many of its old answers survive, and can I keep them?

A tiny BERT tells eight topics apart; a text is 12 words, most of them of its topic.  Its head has then learnt four of
them only, and is fine-tuned on the other four: 100 steps of the Trainer over the frozen body, full batch and mean
squared error, which has a closed form.  `ProtectedTrainer` adds the spectral penalty on 60 old texts to the Trainer's
loss.  The forecasts of both, made before the first step, stand beside what the Trainer does.  Any model and any loss
can be trained that way; only the forecast needs this one.

    pip install 'ntkla[integrations]' && python tests/examples/trainer.py
"""

import copy
import tempfile

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)

import ntkla

TOPICS, WORDS, LENGTH, STEPS = 8, 10, 12, 100
LEARNING_RATE, MOMENTUM, STRENGTH, KEPT = 0.6, 0.9, 5.0, 6


class ProtectedTrainer(Trainer):
    """A Trainer that adds a spectral penalty to the loss: `factor` times it, in the unit of the loss."""

    def __init__(self, *arguments, penalty: ntkla.SpectralPenalty, probes: dict, factor: float, **options):
        super().__init__(*arguments, **options)
        self.penalty, self.factor = penalty.to(self.args.device), factor
        self.probes = {name: x.to(self.args.device) for name, x in probes.items()}
        with torch.no_grad():  # nothing has moved yet: else these would be other probes, or in another order
            self.penalty.check_reference(self.model.eval()(**self.probes).logits)

    def compute_loss(self, model, inputs, return_outputs=False, **options):
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **options)
        loss = loss + self.factor * self.penalty(model(**self.probes).logits)
        return (loss, outputs) if return_outputs else loss


def main() -> None:
    set_seed(0)
    draw = torch.Generator().manual_seed(0)
    every, old, new, asked = (texts(*topics, draw) for topics in ((0, 8, 400), (0, 4, 300), (4, 8, 300), (0, 4, 400)))
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    without_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = BertForSequenceClassification(
        BertConfig(vocab_size=TOPICS * WORDS, num_labels=TOPICS, problem_type="regression", **small, **without_dropout)
    )
    train(Trainer, model, every, torch.optim.Adam(model.parameters(), lr=3e-3))
    model.base_model.requires_grad_(False)

    # The head, trained on the old topics.
    def task(of: dict) -> ntkla.Task:
        found = ntkla.models.features(model, [{"input_ids": of["input_ids"]}], layer="dropout")
        return ntkla.Task(found.features, of["labels"], labels=of["labels"].argmax(1))

    fitted = ntkla.ridge_solve(task(old).features, old["labels"], ridge=1.0, bias=True)
    model.classifier.weight.data, model.classifier.bias.data = fitted.solution.T.float(), fitted.bias.float()

    # The penalty, in one line, from the model as it is and 60 texts that were kept.
    probes = {"input_ids": old["input_ids"][:60]}
    weight = STRENGTH * TOPICS * KEPT / 2
    penalty = ntkla.SpectralPenalty.from_model(model, [probes], KEPT, layer="dropout", weight=weight)

    # The forecasts, before a single step.
    head = ntkla.LinearHead(model.classifier.weight, model.classifier.bias)
    samples = len(new["labels"])
    sgd = ntkla.from_torch_sgd(lr=LEARNING_RATE, momentum=MOMENTUM, steps=STEPS, samples=samples, outputs=TOPICS)
    tests = {"old topics": task(asked), "new topics": task(new)}
    settings = {
        "Trainer": (None, Trainer, {}),
        # A mean over samples and outputs is 2 / (n C) times the sum that ntkla's closed form is of.
        "ProtectedTrainer": (
            ntkla.Protection(penalty, task(old).features[:60]),
            ProtectedTrainer,
            {"penalty": penalty, "probes": probes, "factor": 2 / (samples * TOPICS)},
        ),
    }
    drifted = {}
    print(" " * 17 + "".join(f"{f'{name}: before, forecast, trained':>42}" for name in tests))
    for name, (protection, kind, options) in settings.items():
        reports = ntkla.forecast(tests, task(new), head, ridge=0.0, training=sgd.training, penalty=protection)
        trained = copy.deepcopy(model)
        optimizer = torch.optim.SGD(trained.classifier.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
        train(kind, trained, new, optimizer, **options)
        after = ntkla.LinearHead(trained.classifier.weight, trained.classifier.bias)
        print(f"{name:17s}", end="")
        for asked_of, test in tests.items():
            fact = ntkla.post_mortem(reports[asked_of], test, head, after)
            accuracies = (fact.accuracy_before, reports[asked_of].accuracy_forecast, fact.accuracy_after)
            print("".join(f"{accuracy!s:>10}" for accuracy in accuracies) + f"   ({fact.verdict})", end="")
        print()
        drifted[name] = trained(**probes).logits.detach()
    modes = ntkla.eigenmodes(task(old).features[:60], KEPT, bias=True)
    print(ntkla.drift_split(model(**probes).logits.detach(), drifted, modes, tol=1e-6))


def texts(first: int, beyond: int, count: int, draw: torch.Generator) -> dict[str, torch.Tensor]:
    """Texts of LENGTH words, two thirds of them of the text's topic, first <= topic < beyond, and one-hot labels."""
    of_topic = torch.randint(first, beyond, (count, 1), generator=draw)
    at_random = torch.rand((count, LENGTH), generator=draw) < 1 / 3
    source = torch.where(at_random, torch.randint(TOPICS, (count, LENGTH), generator=draw), of_topic)
    words = source * WORDS + torch.randint(WORDS, (count, LENGTH), generator=draw)
    return {"input_ids": words, "labels": torch.nn.functional.one_hot(of_topic[:, 0], TOPICS).float()}


def train(kind: type[Trainer], model: torch.nn.Module, data: dict, optimizer: torch.optim.Optimizer, **options) -> None:
    """STEPS steps of a Trainer over the whole of the data at once, at a constant rate and without clipping."""
    rows = [dict(zip(data, row, strict=True)) for row in zip(*data.values(), strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            max_steps=STEPS,
            per_device_train_batch_size=len(rows),
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = kind(model, arguments, train_dataset=rows, optimizers=(optimizer, None), **options)
        trainer.remove_callback(PrinterCallback)
        trainer.train()


if __name__ == "__main__":
    main()
