"""Figures to JSON and text, and the JSON of all benchmarks to one report.

``python -m benchmarks.report DIR`` reads ``DIR/NAME.json`` of every benchmark that ran and writes
``DIR/report.md``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

from benchmarks.harness import Figures, Options, Result

PAUSE_MS_MAX: Final = 1000  # beyond what other programs cause: the machine itself was halted


def document(name: str, options: Options, about: Figures, result: Result) -> Figures:
    """One benchmark's result as it is stored and printed."""
    return {
        "benchmark": name,
        "seed": options.seed,
        "quick": options.quick,
        **about,
        "figures": result.figures,
        "bounds": [
            {
                "name": bound.name,
                "value": bound.value,
                "must_be": f"{'at least' if bound.at_least else 'at most'} {bound.limit:g}",
                "met": bound.met,
            }
            for bound in result.bounds
        ],
    }


def text(found: Figures) -> str:
    """A result for a terminal, and for the report."""
    lines = [f"## {found['benchmark']}{' (quick: no measurement)' if found['quick'] else ''}", ""]
    if found["longest_pause_ms"] > PAUSE_MS_MAX:
        lines += [f"The machine stood still for {found['longest_pause_ms']} ms: run it again.", ""]
    for bound in found["bounds"]:
        mark = "met" if bound["met"] else "MISSED"
        lines.append(f"- {bound['name']}: {bound['value']:g} ({bound['must_be']}: {mark})")
    lines.append("")
    for name, value in found["figures"].items():
        lines += _figure(name, value)
    return "\n".join(lines) + "\n"


def _figure(name: str, value: Any) -> list[str]:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return ["", f"{name}:", "", *_table(value)]
    if isinstance(value, dict) and value and all(isinstance(v, dict) for v in value.values()):
        return ["", f"{name}:", "", *_table([{name: key, **row} for key, row in value.items()])]
    return [f"- {name}: {_shown(value)}"]


def _table(rows: list[Figures]) -> list[str]:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [columns, ["---"] * len(columns), *([_shown(row.get(c, "")) for c in columns] for row in rows)]
    return ["| " + " | ".join(line) + " |" for line in lines] + [""]


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        return " ".join(map(_shown, value))
    if isinstance(value, float):
        return f"{value:,.3f}".rstrip("0").rstrip(".")
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def main(folder: Path) -> int:
    """Write the report of what ran; its path goes to standard output."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    if not found:
        print(f"no results in {folder}", file=sys.stderr)
        return 1
    first = found[0]
    lines = ["# wheeltimer benchmarks", ""]
    lines += [
        f"- {name}: {_shown(first[name])}"
        for name in first
        if name not in ("benchmark", "figures", "bounds", "quick", "load_before", "longest_pause_ms")
    ]
    lines.append("- load before: " + ", ".join(f"{one['benchmark']} {one['load_before']}" for one in found))
    for one in found:
        lines += ["", text(one)]
        lines += [f"![{plot.stem}]({plot.name})" for plot in sorted(folder.glob(f"{one['benchmark']}*.png"))]
    path = folder / "report.md"
    path.write_text("\n".join(lines) + "\n")
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
