"""Small curricula: tasks of two classes each, with features that overlap enough to forget."""

from __future__ import annotations

import torch

from ntkla.forgetting.heads import LinearHead
from ntkla.forgetting.sequences.preparing import prepared
from ntkla.forgetting.sequences.sequence import TaskSequence
from ntkla.forgetting.tasks import Task
from ntkla.testing.samples import sample_weights
from ntkla.testing.spectra import normal

F, CLASSES = 6, 6


def task(number: int, samples: int = 20, *, weighted: bool = False, seed: int = 0, dtype=torch.float32) -> Task:
    """Task `number` of three: classes 2 number and 2 number + 1, around centres that all tasks share."""
    labels = 2 * (number % 3) + torch.arange(samples) % 2
    centres = normal(CLASSES, F, 99)
    features = (centres[labels] + 0.7 * normal(samples, F, 100 * seed + number)).to(dtype)
    weights = sample_weights("uniform", samples, seed=number) if weighted else None
    return Task.from_labels(features, labels, CLASSES, weights=weights)


def zero_head(bias: bool = True) -> LinearHead:
    zeros = torch.zeros((CLASSES, F), dtype=torch.float64)
    return LinearHead(zeros, zeros[:, 0]) if bias else LinearHead(zeros)


def some_head(bias: bool = True) -> LinearHead:
    return LinearHead(normal(CLASSES, F, 7), normal(1, CLASSES, 8)[0] if bias else None)


def learned(tasks, *, probes=None, head=None, **settings):
    """A sequence that has learned the tasks, the carried state after each, and each task's stored rows Z."""
    sequence = TaskSequence(zero_head() if head is None else head, **{"ridge": 0.1, **settings})
    states, rows = [], []
    for number, one in enumerate(tasks):
        given = None if probes is None else probes[number]
        ready = prepared("x", one, given, sequence._carried.settings, sequence.head)
        rows.append(ready.anchor.rows)
        sequence.learn(one, probes=given)
        states.append(sequence._carried)
    return sequence, states, rows
