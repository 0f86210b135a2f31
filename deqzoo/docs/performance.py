"""Tables of the page on performance, from the JSON files that benchmarks write: ``benchmarks/results/NAME.json``."""

import ast
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
    parts = [f"### {_title(path)}", f"`python -m benchmarks.{path.stem}`: {environment}."]
    if checks := content["checks"]:
        promises = [
            {"promise": check["promise"], "found": check["found"], "kept": "yes" if check["kept"] else "**no**"}
            for check in checks
        ]
        parts += ["**Promises**", _table(promises)]
    for name, rows in content.items():
        if name not in ("environment", "quick", "checks") and rows:
            table = _table([{key: _shown(key, value) for key, value in row.items()} for row in rows])
            parts.append(_folded(f"{name.replace('_', ' ').capitalize()}: {len(rows)}", table))
    return "\n\n".join(parts)


def _title(path: Path) -> str:
    """What the benchmark says of itself, up to its command; the file's name where there is no benchmark of it."""
    script = path.parents[1] / f"{path.stem}.py"
    doc = ast.get_docstring(ast.parse(script.read_text())) if script.is_file() else None
    return (doc or path.stem.replace("_", " ").capitalize()).splitlines()[0].partition(": `")[0].rstrip(".")


def _folded(summary: str, table: str) -> str:
    """A table that opens on demand."""
    return f'<details markdown="1">\n<summary>{summary}</summary>\n\n{table}\n\n</details>'


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    """A table with the keys of the first row as its heads; seconds are shown as ms, bytes as MiB."""
    units = {"seconds": "time (ms)"} | {
        name: f"{name.replace('bytes', 'memory')} (MiB)" for name in rows[0] if _in_bytes(name)
    }
    heads = [units.get(name, name).replace("_", " ") for name in rows[0]]
    lines = [heads, ["---"] * len(heads), *[list(row.values()) for row in rows]]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _in_bytes(name: str) -> bool:
    return "bytes" in name.split("_")


def _shown(name: str, value: Any) -> str:
    """One number or text.

    >>> _shown("seconds", 0.0123456), _shown("error", 1.234e-7), _shown("over_peer", None), _shown("nfe", 20)
    ('12.3', '1.23e-07', '', '20')
    >>> _shown("seconds", 1.23456), _shown("saved_bytes", 65609684)
    ('1230', '62.6')
    """
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_shown(name, each)}" for key, each in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    if _in_bytes(name):
        value = value / 2**20
    if isinstance(value, float):
        value = 1e3 * value if name == "seconds" else value
        short = float(f"{value:.{_PLACES}g}")
        return f"{short:.0f}" if 1e3 <= abs(short) < 1e6 else f"{short:g}"
    return str(value)
