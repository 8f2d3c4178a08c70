"""The import rules of the house, checked by parsing.  Run as a script it prints what it looked at and what is broken.

1. A floor of `ntkla` imports itself and the floors below it; nothing in the library imports `testing` or `app`.
2. No two modules import each other, directly or around a corner.
3. Only `ntkla/linalg/backends/kernels.py` imports `csrc_triton`, inside a function; `csrc_triton` imports torch and
   triton only.
4. Solvers import no other solver: algorithms receive operators, they do not build them.
5. Plotting, file formats and argument parsing live in `app` only; `hypothesis` and `flint` in `testing` only.
   One file of the library writes and reads a format, safetensors, inside functions: that of `TaskSequence.save`.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

LIBRARY = ("linalg", "models", "forgetting")
REACH = {
    "linalg": {"linalg"},
    "models": {"linalg", "models"},
    "forgetting": {"linalg", "models", "forgetting"},
    "testing": {"linalg", "models", "forgetting", "testing"},
    "app": {"linalg", "models", "forgetting", "app"},
    "": set(LIBRARY),  # ntkla/__init__.py, the public door
}
SOLVERS = {"ntkla.linalg.ridge", "ntkla.linalg.eigenmodes"}
KERNELS_NEED = {"csrc_triton", "torch", "triton"}
KERNEL_DOOR = "ntkla.linalg.backends.kernels"
APP_ONLY = {"matplotlib", "PIL", "seaborn", "plotly"}  # plotting
APP_ONLY |= {"safetensors", "pickle", "csv", "h5py", "pandas", "mlxtend"}  # file formats and data
APP_ONLY |= {"argparse", "typer", "click", "rich", "tqdm", "platformdirs"}  # talking to a person
FILE_DOOR, FILE_DOOR_NEEDS = "ntkla.forgetting.sequences.files", "safetensors"
TESTING_ONLY = {"hypothesis", "flint", "pytest"}


@dataclass(frozen=True)
class Import:
    """One imported module: who imports it, where, and whether that happens when the importer is loaded."""

    importer: str
    target: str
    line: int
    at_load: bool


def modules(root: Path) -> dict[str, Path]:
    """Dotted name -> file, for every module of `ntkla` and `csrc_triton` under `root`."""
    found = {}
    for package in ("ntkla", "csrc_triton"):
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(name: str, path: Path, known: dict[str, Path]) -> Iterator[Import]:
    """Every import in a file; `from package import module` counts as an import of that module."""
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    lazy = {id(inner) for outer in ast.walk(tree) if isinstance(outer, _LAZY) for inner in _run_later(outer)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            joined = [f"{base}.{alias.name}" for alias in node.names]
            targets = [target if target in known else base for target in joined]
        else:
            continue
        for target in targets:
            yield Import(name, target, node.lineno, id(node) not in lazy)


_LAZY = (ast.FunctionDef, ast.AsyncFunctionDef, ast.If)


def _run_later(node: ast.AST) -> Iterator[ast.AST]:
    """What is not run when the module is loaded: bodies of functions, and of `if TYPE_CHECKING`."""
    if isinstance(node, ast.If):
        if "TYPE_CHECKING" in ast.dump(node.test):
            for statement in node.body:
                yield from ast.walk(statement)
    elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        for statement in node.body:
            yield from ast.walk(statement)


def broken(root: Path) -> list[str]:
    """A sentence for every broken rule; empty when the house stands."""
    known = modules(root)
    found = [entry for name, path in known.items() for entry in imports_of(name, path, known)]
    homeless = [f"{name}: lies on no known floor" for name in known if name.startswith("ntkla.") and not _floor(name)]
    return homeless + [message for entry in found for message in _judge(entry)] + _cycles(found, known)


def _judge(entry: Import) -> Iterator[str]:
    where = f"{entry.importer}:{entry.line} imports {entry.target}"
    importer, target = _floor(entry.importer), _floor(entry.target)
    top = entry.target.split(".")[0]
    if entry.importer.split(".")[0] == "csrc_triton":
        if top not in KERNELS_NEED and top not in sys.stdlib_module_names:
            yield f"{where}: csrc_triton imports torch and triton only"
        return
    if top == "ntkla" and target != "" and target not in REACH[importer]:
        yield f"{where}: the floor {importer or 'ntkla'!r} may import {sorted(REACH[importer])} only"
    if top == "ntkla" and target == "" and importer in LIBRARY:
        yield f"{where}: inside the library, import the module itself and not the public door"
    if entry.importer in SOLVERS and entry.target in SOLVERS:
        yield f"{where}: solvers import no other solver"
    if top == "csrc_triton" and (entry.importer != KERNEL_DOOR or entry.at_load):
        yield f"{where}: only {KERNEL_DOOR} may, and only inside a function"
    if top == "triton":
        yield f"{where}: only csrc_triton imports triton"
    at_file_door = entry.importer == FILE_DOOR and top == FILE_DOOR_NEEDS and not entry.at_load
    if top in APP_ONLY and importer != "app" and not at_file_door:
        yield f"{where}: plotting, file formats and argument parsing live in app only"
    if top in TESTING_ONLY and importer != "testing":
        yield f"{where}: only ntkla.testing imports it"


def _floor(module: str) -> str:
    """The floor of a module of ntkla: "linalg" for "ntkla.linalg.ops"; empty for the door and for other packages."""
    parts = module.split(".")
    return parts[1] if parts[0] == "ntkla" and len(parts) > 1 and parts[1] in REACH else ""


def _cycles(found: list[Import], known: dict[str, Path]) -> list[str]:
    """Every set of modules that import each other: imports inside functions count, they only hide a cycle."""
    edges: dict[str, set[str]] = {name: set() for name in known}
    for entry in found:
        if entry.target in known and entry.target != entry.importer:
            edges[entry.importer].add(entry.target)
    reach = {name: _reachable(name, edges) for name in edges}
    knots = {frozenset(other for other in reach[name] if name in reach[other]) for name in edges if name in reach[name]}
    return [f"these modules import each other: {', '.join(sorted(knot))}" for knot in knots]


def _reachable(start: str, edges: dict[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    waiting = list(edges[start])
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting.extend(edges[name])
    return seen


def main() -> int:
    """Prints the verdict for the checkout that holds this file; the exit status is 1 when a rule is broken."""
    root = Path(__file__).resolve().parents[1]
    messages = broken(root)
    print(*messages, f"import rules: {len(modules(root))} modules, {len(messages)} broken rules", sep="\n")
    return 1 if messages else 0


if __name__ == "__main__":
    sys.exit(main())
