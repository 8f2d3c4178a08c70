"""`ntkla modes` from beginning to end, and its JSON document.

Values are written as `strict_json` says:

    schema, ntkla, command "modes"
    input         {argument, path, samples, features, dtype}
    settings      {k, outputs, bias, share, tolerance, prove, route, block_size, seed, device}
    status        {code, message, certified}
    values, value_error, residual_norms, angle_bound, cumulative     one a mode, as in `ntkla.Eigenmodes`; cumulative is
                  the share of the trace, null where that is not known
    orthogonality upper bound of ||U^T U - I||
    clusters      [[start, stop]]: modes that cannot be told apart, counted from 0; stop is the number of all
                  eigenvalues where it is not known how far the last one goes
    cluster_gaps, cluster_angle_bounds     one a cluster
    cut           whether the last cluster goes on beyond k
    complete      true: it is proved that no larger eigenvalue was missed; null: it is not
    proof         how: "full", "trace" or "inertia"; null when it was not
    next_value_bound     of the eigenvalue after these, and so of all others
    ceiling       null; where larger ones may have been missed one a mode, upper bounds of the eigenvalues in order
    converged     whether every value error and residual meets the tolerance
    passes        products with the kernel; 0 for a direct decomposition
    trace, trace_error     null where the trace is not known
    ranks         {k_G, k_star, participation, intrinsic, entropy}; all but k_star are of G
    seconds

The schema grows when a field is removed or changes its meaning, not when one is added.
"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ntkla import __version__
from ntkla.app.command_line.estimate import of_modes
from ntkla.app.command_line.inputs import device_named
from ntkla.app.command_line.notation import share
from ntkla.app.failures import need
from ntkla.app.files.reading import read_task
from ntkla.app.files.task_file import TaskFile, naming
from ntkla.app.reports.progress import Stage, watched
from ntkla.app.reports.strict_json import plain, text
from ntkla.app.reports.words import as_options
from ntkla.app.reports.written import make_folder, written
from ntkla.forgetting.spectrum.ranks import KINDS, Rank, effective_rank, vulnerable_rank
from ntkla.linalg import checks
from ntkla.linalg.eigen.modes import Eigenmodes
from ntkla.linalg.eigenmodes import eigenmodes

SCHEMA = 1
_FEW = 20
_OF_MODES = (
    *("values", "value_error", "residual_norms", "angle_bound", "orthogonality"),
    *("cut", "complete", "proof", "next_value_bound", "converged", "passes"),
)


@dataclass(frozen=True)
class ModesOptions:
    """Arguments and options as typed; `ntkla modes --help` says what each means."""

    features: str
    count: int | None = None
    outputs: int = 1
    bias: bool = False
    share: float = 0.9
    tol: float | None = None
    prove: str | None = "trace"
    route: str = "auto"
    block_size: int | None = None
    seed: int = 0
    device: str = "cpu"
    json: bool = False
    output: Path | None = None

    def check(self) -> None:
        """Raises ArgumentError for a value outside its range."""
        checks.integer("--outputs", self.outputs, least=1)
        share("--share", self.share)
        if self.tol is not None:
            checks.positive("--tol", self.tol)
        if self.block_size is not None:
            checks.integer("--block-size", self.block_size, least=1)
        checks.integer("--seed", self.seed, least=0, most=2**63 - 1)


@dataclass(frozen=True, eq=False)
class Found:
    """What `ntkla modes` found: the modes, ranks by name, and the seconds that it took."""

    modes: Eigenmodes
    ranks: dict[str, Rank]
    seconds: float

    @property
    def trace_known(self) -> bool:
        """Whether anything is known of the trace, as it always is for features."""
        return math.isfinite(self.modes.spectrum.trace_error)

    @property
    def cumulative(self) -> torch.Tensor | None:
        """The share of the trace in the first j + 1 modes, float64 [k]; 0 where there is nothing, None if not known."""
        if not self.trace_known:
            return None
        trace = self.modes.spectrum.trace
        return (self.modes.values.cumsum(0) / trace if trace > 0 else self.modes.values).clamp(max=1.0)


def run_modes(options: ModesOptions) -> bool:
    """Runs the command: prints what it finds, and writes it where that was asked for.

    Returns:
        Whether every eigenvalue is certified.

    Raises:
        NtklaError: whatever a person can mend.
    """
    options.check()
    if not options.json:
        need("rich", "cli")
    if options.output is not None:
        need("matplotlib", "cli")
        make_folder(options.output)
    file = read_task(options.features)
    unused = [role for role in file.paths if role != "features"]
    if unused:
        print(f"ntkla: note: {options.features}: only the features are used, not {', '.join(unused)}", file=sys.stderr)
    features = file.features.to(device_named(options.device))
    most = min(features.shape[0], features.shape[1] + int(options.bias))
    k = min(_FEW, most) if options.count is None else checks.integer("-k", options.count, least=1, most=len(features))
    estimate = of_modes(
        features, k, bias=options.bias, block=options.block_size, prove=options.prove, route=options.route
    )
    with watched(estimate, "the decomposition") as stage:
        found = _found(options, file, features, k, stage)
    document = text(_document(options, file, found))
    paths = [] if options.output is None else _write(options.output, options, found, document)
    if options.json:
        print(document, end="")
    else:
        screen = need("ntkla.app.reports.screen", "cli").console()
        need("ntkla.app.reports.modes_tables", "cli").show(screen, found, file.name)
        if paths:
            screen.print(f"\nWritten to {options.output}: " + ", ".join(path.name for path in paths), markup=False)
    if not found.modes.status.certified:
        print(f"ntkla: warning: {as_options(str(found.modes.status))}", file=sys.stderr)
    return found.modes.status.certified


def _found(options: ModesOptions, file: TaskFile, features: torch.Tensor, k: int, stage: Stage) -> Found:
    began = time.perf_counter()
    with naming(file.paths, options.features):
        modes = eigenmodes(
            features,
            k,
            bias=options.bias,
            tol=options.tol,
            block_size=options.block_size,
            prove=options.prove,
            seed=options.seed,
            progress=lambda passes, residual: stage(reached(passes, residual)),
            route=options.route,
        )
    ranks = {"k_G": effective_rank(modes, q=options.share)}
    ranks["k_star"] = vulnerable_rank(modes, options.outputs, options.share)
    ranks |= {kind: effective_rank(modes, kind) for kind in KINDS if kind != "share"}
    return Found(modes, ranks, time.perf_counter() - began)


def reached(passes: int, residual: float) -> str:
    """How far Lanczos has come, as its bar says it; as wide from beginning to end, so that the bar stands still."""
    return f"pass {passes:3d} over the features, worst residual {residual:.0e}"


def _document(options: ModesOptions, file: TaskFile, found: Found) -> dict[str, Any]:
    modes, (samples, features) = found.modes, file.features.shape
    return {
        "schema": SCHEMA,
        "ntkla": __version__,
        "command": "modes",
        "input": {
            "argument": options.features,
            "path": str(file.paths["features"]),
            "samples": samples,
            "features": features,
            "dtype": str(file.features.dtype).removeprefix("torch."),
        },
        "settings": {
            "k": modes.values.shape[0],
            "outputs": options.outputs,
            "bias": options.bias,
            "share": options.share,
            "tolerance": modes.tolerance,
            **{name: getattr(options, name) for name in ("prove", "route", "block_size", "seed", "device")},
        },
        "status": plain(modes.status),
        **{name: plain(getattr(modes, name)) for name in _OF_MODES},
        "ceiling": plain(modes.spectrum.ceiling),
        "cumulative": plain(found.cumulative),
        "clusters": [[cluster.start, cluster.stop] for cluster in modes.clusters],
        "cluster_gaps": plain([cluster.gap for cluster in modes.clusters]),
        "cluster_angle_bounds": plain([cluster.angle_bound for cluster in modes.clusters]),
        **{
            name: plain(getattr(modes.spectrum, name)) if found.trace_known else None
            for name in ("trace", "trace_error")
        },
        "ranks": plain(found.ranks),
        "seconds": found.seconds,
    }


def _write(folder: Path, options: ModesOptions, found: Found, document: str) -> list[Path]:
    write_modes_picture = need("ntkla.app.pictures.page", "cli").write_modes_picture
    picture = folder / "modes.png"
    write_modes_picture(picture, found.modes, options.outputs)
    return [written(folder / "modes.json", lambda path: path.write_text(document, encoding="utf-8")), picture]
