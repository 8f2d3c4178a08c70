"""The tables in README.md and perf/README.md, made from the recorded runs and put between the two markers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from perf import machine, results

NOTHING = "No run recorded yet: `python -m perf`."
BEGIN, END = "<!-- perf:begin -->", "<!-- perf:end -->"
HEADLINES = ("forecast",)  # what the front page shows


def regenerate(root: Path, directory: Path) -> list[Path]:
    """Rewrites the tables of both pages from the newest run of each suite and device; returns the pages changed."""
    records = results.latest(results.load(directory))
    headlines = [record for record in records if record["suite"] in HEADLINES]
    changed = []
    for page, text in ((root / "README.md", short(headlines)), (root / "perf" / "README.md", long(records))):
        if page.exists() and replace(page, text):
            changed.append(page)
    return changed


def replace(page: Path, text: str, begin: str = BEGIN, end: str = END) -> bool:
    """Puts the text between the page's markers; False when it has none or nothing changed."""
    old = page.read_text()
    if begin not in old or end not in old:
        return False
    before, rest = old.split(begin, 1)
    new = before + begin + "\n" + text + "\n" + end + rest.split(end, 1)[1]
    if new == old:
        return False
    page.write_text(new)
    return True


def short(records: list[dict[str, Any]]) -> str:
    """One line a case beside the baseline, then one line for every other contender at the largest case it ran."""
    blocks = []
    for record in records:
        baseline, cases = record["baseline"], _cases(record)
        lines = [
            f"| case | ntkla | proven bound | true error | {baseline} | its true error | ntkla / it |",
            "|---|---|---|---|---|---|---|",
            *(line for case in cases for line in _baseline_lines(case, baseline)),
            "",
            "| other contender | largest case it ran | its time | its true error | ntkla | ntkla / it |",
            "|---|---|---|---|---|---|",
            *_other_lines(cases, baseline),
        ]
        blocks.append("\n".join([*lines, "", _footer(record)]))
    return "\n\n".join(blocks) or NOTHING


def _baseline_lines(case: list[dict[str, Any]], baseline: str) -> list[str]:
    other = next((row for row in case if row["contender"] == baseline and row["seconds"]), None)
    if other is None:
        return []
    return [
        f"| {row['case']}{row['contender'].removeprefix('ntkla')} | {_seconds(row)} | {_power(row['bound'])} "
        f"| {_power(row['error'])} | {_seconds(other)} | {_power(other['error'])} | {row['ratios'][baseline]:.2f} |"
        for row in case
        if row["ours"] and row["seconds"]
    ]


def _other_lines(cases: list[list[dict[str, Any]]], baseline: str) -> list[str]:
    """The largest case is the one with the most work for the closed form."""
    found: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
    for case in sorted(cases, key=lambda rows: max(row["operations"] or 0.0 for row in rows if row["ours"])):
        ours = next(row for row in case if row["ours"])
        found.update({row["contender"]: (row, ours) for row in case if not row["ours"] and row["error"] is not None})
    return [
        f"| {name} | {row['case']} | {_seconds(row)} | {_power(row['error'])} | {_seconds(ours)} "
        f"| {_ratio(ours['ratios'].get(name))} |"
        for name, (row, ours) in found.items()
        if name != baseline
    ]


def long(records: list[dict[str, Any]]) -> str:
    """Everything: each contender of each case, then our time and the experts' by part."""
    blocks = []
    for record in records:
        blocks.append(f"### {record['suite']}, {record['device']}\n\n{_footer(record)}")
        for case in _cases(record):
            blocks.append(_case_table(case))
    return "\n\n".join(blocks) or NOTHING


def _case_table(case: list[dict[str, Any]]) -> str:
    """A row for each contender, and for each of ours a column of ratios: its time over theirs."""
    ours = [row for row in case if row["ours"]]
    with_memory = any("peak_memory" in row["facts"] for row in case)
    columns = ["contender", "median", "runs (range)", "error", "proven bound", "roofline"]
    columns += [f"{row['contender']} / it" for row in ours]
    columns += [*(["memory (estimate)"] if with_memory else []), ""]
    lines = [f"#### {case[0]['case']}", "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in case:
        cells = [
            row["contender"],
            _seconds(row),
            _range(row),
            _power(row["error"]),
            _power(row["bound"]),
            _percent(row["roofline"]),
            *(_ratio(mine["ratios"].get(row["contender"])) for mine in ours),
            *([_memory(row)] if with_memory else []),
            _how(row),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    parts = [f"{row['contender']}: {_parts(row['parts'])}" for row in case if row["parts"]]
    return "\n".join([*lines, "", "By part, in ms. " + ". ".join(parts) + "."] if parts else lines)


def _how(row: dict[str, Any]) -> str:
    """Why there is no time, or how ours got there."""
    facts = row["facts"]
    said = [row["reason"], row["note"]]
    if "factor" in facts:
        said.append(f"{facts['status']}, {facts['route']}, {facts['factor']}, {facts['corrections']} corrections")
    if "passes" in facts:
        proved = f"complete by {facts['proof']}" if facts["complete"] else "completeness not proved"
        said.append(f"{facts['passes']} passes, {proved}")
    if facts.get("residual_levels"):
        said.append(f"residual levels {facts['residual_levels']}")
    return "; ".join(part for part in said if part)


def _parts(parts: dict[str, float]) -> str:
    return ", ".join(f"{name} {1e3 * seconds:.3g}" for name, seconds in parts.items())


def _memory(row: dict[str, Any]) -> str:
    measured, estimate = row["facts"].get("peak_memory", {}).get("bytes"), row["facts"].get("memory_estimate")
    if measured is None:
        return ""
    return f"{measured / 1e6:,.0f} MB" + (f" ({estimate / 1e6:,.0f} MB)" if estimate else "")


def _seconds(row: dict[str, Any]) -> str:
    if row["seconds"] is None:
        return str(row["status"])
    return f"{row['seconds']:.3g} s" if row["seconds"] >= 1 else f"{1e3 * row['seconds']:.3g} ms"


def _range(row: dict[str, Any]) -> str:
    if row["seconds"] is None:
        return ""
    return f"{row['runs']} ({_seconds({'seconds': row['fastest']})} to {_seconds({'seconds': row['slowest']})})"


def _power(value: float | None) -> str:
    return "" if value is None else f"{value:.0e}"


def _ratio(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2g}" if value < 100 else f"{value:,.0f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"


def _cases(record: dict[str, Any]) -> list[list[dict[str, Any]]]:
    cases: dict[str, list[dict[str, Any]]] = {}
    for row in record["rows"]:
        cases.setdefault(row["case"], []).append(row)
    return list(cases.values())


def _footer(record: dict[str, Any]) -> str:
    rates = [f"{name} {rate / 1e9:,.0f}" for name, rate in record["ceilings"].items() if name != "copy"]
    return (
        f"Taken {record['time']} ({record['size']} size) on {machine.line(record['machine'])}. Measured ceilings: "
        f"{', '.join(rates)} Gflop/s, copy {record['ceilings']['copy'] / 1e9:,.0f} GB/s.{_company(record['machine'])}"
    )


def _company(described: dict[str, Any]) -> str:
    """A warning when other programs ran on the same cores."""
    load, cores = described.get("load"), described.get("cores")
    if load is None or cores is None or load <= cores:
        return ""
    return f" **Other programs ran beside it (load average {load:.0f} on {cores} cores): only ratios say something.**"
