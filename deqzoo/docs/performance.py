"""Tables of the page on performance, from the JSON files that benchmarks write: ``benchmarks/results/NAME.json``."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_PLACES = 3  # significant digits


def benchmark_tables(folder: Path) -> str:
    """Markdown of all runs in a folder: a section each, with the tables, the promises, and what it was measured on.

    Raises:
        ValueError: a smoke run (``--quick``), whose times mean little.
    """
    return "\n\n".join(_run(path) for path in sorted(folder.glob("*.json"))) + "\n"


def _run(path: Path) -> str:
    content = json.loads(path.read_text())
    if content["quick"]:
        raise ValueError(f"{path} is of a smoke run: run `python -m benchmarks.{path.stem} --json {path}` as it is")
    environment = ", ".join(f"{name} {value}" for name, value in content["environment"].items())
    parts = [f"### {path.stem.replace('_', ' ').capitalize()}", f"`python -m benchmarks.{path.stem}`: {environment}."]
    for name, rows in content.items():
        if name not in ("environment", "quick", "checks") and rows:
            parts.append(f"**{name.replace('_', ' ').capitalize()}**")
            parts.append(_table([{key: _shown(key, value) for key, value in row.items()} for row in rows]))
    if checks := content["checks"]:
        promises = [
            {"promise": check["promise"], "found": check["found"], "kept": "yes" if check["kept"] else "**no**"}
            for check in checks
        ]
        parts += ["**Promises**", _table(promises)]
    return "\n\n".join(parts)


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    """A table with the keys of the first row as its heads; seconds are shown as ms."""
    heads = [{"seconds": "time (ms)"}.get(name, name.replace("_", " ")) for name in rows[0]]
    lines = [heads, ["---"] * len(heads), *[list(row.values()) for row in rows]]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _shown(name: str, value: Any) -> str:
    """One number or text.

    >>> _shown("seconds", 0.0123456), _shown("error", 1.234e-7), _shown("over_peer", None), _shown("nfe", 20)
    ('12.3', '1.23e-07', '', '20')
    """
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_shown(name, each)}" for key, each in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        value = 1e3 * value if name == "seconds" else value
        return f"{value:.{_PLACES}g}"
    return str(value)
