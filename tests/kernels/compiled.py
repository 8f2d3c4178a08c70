"""What came out of compiling kernels: judged, as a table for people, and as a record that is kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from perf import machine, tables

BEGIN, END = "<!-- compiled:begin -->", "<!-- compiled:end -->"
RECORDS = machine.ROOT / "perf" / "results" / "compiled"
PAGE = machine.ROOT / "perf" / "README.md"
REGISTERS = 65536  # of a multiprocessor on every NVIDIA device here: one program at least must fit


@dataclass(frozen=True)
class Compiled:
    """One variant for one target: what the compiler made of it, and what is wrong with that.

    Attributes:
        expected: how the name of the multiplying instruction starts, with alternatives between bars; "" when there
            must be no matrix instruction, None when that is not judged.
        made: the answer of `compile_worker`.
        mode: the arithmetic, where the kernel has several.
    """

    module: str
    kernel: str
    variant: str
    target: str
    triton: str
    expected: str | None
    made: dict[str, Any]
    mode: str = ""

    @property
    def problems(self) -> tuple[str, ...]:
        """A sentence for every expectation that is not met; empty when all is well."""
        made = self.made
        if "error" in made:
            return (str(made["error"]),)
        found = []
        if made["spills"] or made["stack"]:
            found.append(f"spills: {made['spills']} instructions, {made['stack']} bytes of stack")
        if made.get("threads_registers", 0) > REGISTERS:
            found.append(f"needs {made['threads_registers']} registers of the {REGISTERS} of a multiprocessor")
        if made["shared"] > made["shared_limit"]:
            found.append(f"needs {made['shared']} bytes of shared memory of {made['shared_limit']}")
        if self.expected is not None:
            wanted = tuple(self.expected.split("|"))
            strange = [name for name in made["matrix"] if not (self.expected and name.startswith(wanted))]
            if strange or not any(name.startswith(wanted) for name in made["products"] or [""]):
                found.append(
                    f"expected {self.expected or 'no matrix instruction'} to multiply, "
                    f"found {self.products or 'no product'}"
                )
        return tuple(found)

    @property
    def products(self) -> str:
        """The multiplying instructions and how often they occur, as "HGMMA 12"."""
        return ", ".join(f"{name} {self.made['opcodes'][name]}" for name in self.made.get("products", ()))


HEADINGS = ("variant", "target", "registers", "stack, spills", "shared memory", "products", "instructions")


def cells(result: Compiled) -> tuple[str, ...]:
    """A row of the table."""
    made = result.made
    if "error" in made:
        return (result.variant, result.target, "failed", "", "", "", "")
    return (
        result.variant,
        result.target,
        str(made["registers"]),
        f"{made['stack']} B, {made['spills']}",
        f"{made['shared'] / 1024:.4g} of {made['shared_limit'] // 1024} KiB",
        result.products or "none",
        str(made["instructions"]),
    )


def text(results: Sequence[Compiled]) -> str:
    """The table in columns, for a terminal."""
    rows = [HEADINGS, *map(cells, results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)


SUMMARY = ("kernel", "mode", "target", "variants", "registers", "shared memory", "products")


def summary(results: Sequence[Compiled]) -> list[tuple[str, ...]]:
    """Rows for a page: the variants of each kernel, mode and target together, with the most that any of them takes."""
    groups: dict[tuple[str, str, str], list[Compiled]] = {}
    for result in results:
        groups.setdefault((result.kernel, result.mode, result.target), []).append(result)
    rows = []
    for (kernel, mode, target), members in groups.items():
        made = [member.made for member in members if "error" not in member.made]
        products = sorted({name for each in made for name in each["products"]})
        most = [str(max((each[what] for each in made), default="")) for what in ("registers", "shared")]
        rows.append((kernel.strip("_"), mode, target, str(len(members)), *most, ", ".join(products)))
    return rows


def markdown(record: dict[str, Any]) -> str:
    """The summary of a record, for a page, and the variants that are not as expected."""
    results = [Compiled(**row) for row in record["rows"]]
    bad = [f"- {r.variant} for {r.target}: {'; '.join(r.problems)}" for r in results if r.problems]
    verdict = "none spills, each fits and multiplies as expected" if not bad else f"{len(bad)} are not as expected"
    return "\n".join(
        [
            f"#### Triton {record['triton']}",
            "",
            f"{len(results)} compiled {record['time']} at commit {record['commit']}: {verdict}.",
            *bad,
            "",
            "| " + " | ".join(SUMMARY) + " |",
            "|---" * len(SUMMARY) + "|",
            *("| " + " | ".join(row) + " |" for row in summary(results)),
        ]
    )


def write(results: Sequence[Compiled], directory: Path = RECORDS, page: Path = PAGE) -> Path:
    """Keeps the results as a new record and renews the page's table from the newest record of each Triton."""
    moment = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    version = results[0].triton
    path = directory / f"{moment}-triton-{version}.json"
    directory.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {
        "time": moment,
        "triton": version,
        "commit": machine.commit(),
        "rows": [asdict(r) for r in results],
    }
    with path.open("x") as file:
        rows = ",\n".join(json.dumps(row) for row in record.pop("rows"))  # a line for each
        file.write(json.dumps(record)[:-1] + f', "rows": [\n{rows}\n]}}\n')
    newest = {kept["triton"]: kept for kept in (json.loads(p.read_text()) for p in sorted(directory.glob("*.json")))}
    tables.replace(page, "\n\n".join(markdown(newest[version]) for version in sorted(newest)), BEGIN, END)
    return path
