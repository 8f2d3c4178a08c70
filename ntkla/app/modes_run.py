"""`ntkla modes` from beginning to end, and its JSON document.

Values are written as `strict_json` says:

    schema, ntkla, command "modes"
    input         {argument, path, samples, features, dtype}
    settings      {k, outputs, bias, share, tolerance, device}
    status        {code, message, certified}
    values, value_error, residual_norms, cumulative     one a mode; cumulative is the share of the trace
    clusters      [[start, stop]]: modes that cannot be told apart, counted from 0
    cut           whether the last cluster goes on beyond k
    complete      whether it is proved that no larger eigenvalue was missed; next_value_bound: of the one after
    trace, trace_error
    ranks         {k_G, k_star, participation, intrinsic, entropy}; all but k_star are of G
    seconds
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ntkla import __version__
from ntkla.app.estimate import of_modes
from ntkla.app.failures import need
from ntkla.app.files import read_task
from ntkla.app.inputs import device_named
from ntkla.app.notation import share
from ntkla.app.progress import watched
from ntkla.app.strict_json import plain, text
from ntkla.app.task_file import TaskFile, naming
from ntkla.app.written import make_folder, written
from ntkla.forgetting.ranks import KINDS, Rank, effective_rank, vulnerable_rank
from ntkla.linalg import checks
from ntkla.linalg.eigenmodes import eigenmodes
from ntkla.linalg.modes import Eigenmodes

SCHEMA = 1
_FEW = 20


@dataclass(frozen=True)
class ModesOptions:
    """Arguments and options as typed; `ntkla modes --help` says what each means."""

    features: str
    count: int | None = None
    outputs: int = 1
    bias: bool = False
    share: float = 0.9
    tol: float | None = None
    device: str = "cpu"
    json: bool = False
    output: Path | None = None

    def check(self) -> None:
        """Raises ArgumentError for a value outside its range."""
        checks.integer("--outputs", self.outputs, least=1)
        share("--share", self.share)
        if self.tol is not None:
            checks.positive("--tol", self.tol)


@dataclass(frozen=True, eq=False)
class Found:
    """What `ntkla modes` found: the modes, ranks by name, and the seconds that it took."""

    modes: Eigenmodes
    ranks: dict[str, Rank]
    seconds: float

    @property
    def cumulative(self) -> torch.Tensor:
        """The share of the trace in the first j + 1 modes, float64 [k]; 0 where there is nothing."""
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
    with watched(of_modes(features, k, bias=options.bias), "the decomposition"):
        found = _found(options, file, features, k)
    document = text(_document(options, file, found))
    paths = [] if options.output is None else _write(options.output, options, found, document)
    if options.json:
        print(document, end="")
    else:
        screen = need("ntkla.app.screen", "cli").console()
        need("ntkla.app.modes_tables", "cli").show(screen, found, file.name)
        if paths:
            screen.print(f"\nWritten to {options.output}: " + ", ".join(path.name for path in paths), markup=False)
    if not found.modes.status.certified:
        print(f"ntkla: warning: {found.modes.status}", file=sys.stderr)
    return found.modes.status.certified


def _found(options: ModesOptions, file: TaskFile, features: torch.Tensor, k: int) -> Found:
    began = time.perf_counter()
    with naming(file.paths, options.features):
        modes = eigenmodes(features, k, bias=options.bias, tol=options.tol)
    ranks = {"k_G": effective_rank(modes, q=options.share)}
    ranks["k_star"] = vulnerable_rank(modes, options.outputs, options.share)
    ranks |= {kind: effective_rank(modes, kind) for kind in KINDS if kind != "share"}
    return Found(modes, ranks, time.perf_counter() - began)


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
            "device": options.device,
        },
        "status": plain(modes.status),
        **{name: plain(getattr(modes, name)) for name in ("values", "value_error", "residual_norms")},
        "cumulative": plain(found.cumulative),
        "clusters": [[cluster.start, cluster.stop] for cluster in modes.clusters],
        **{name: plain(getattr(modes, name)) for name in ("cut", "complete", "next_value_bound")},
        **{name: plain(getattr(modes.spectrum, name)) for name in ("trace", "trace_error")},
        "ranks": plain(found.ranks),
        "seconds": found.seconds,
    }


def _write(folder: Path, options: ModesOptions, found: Found, document: str) -> list[Path]:
    write_modes_picture = need("ntkla.app.page", "cli").write_modes_picture
    picture = folder / "modes.png"
    write_modes_picture(picture, found.modes, options.outputs)
    return [written(folder / "modes.json", lambda path: path.write_text(document, encoding="utf-8")), picture]
