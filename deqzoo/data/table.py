"""The table of all data sets, for ``data/README.md``."""

from importlib import import_module

from deqzoo.data.kinds import DATA_KINDS


def data_rows() -> dict[str, list[str]]:
    """The cells of each set's row, by its name; last its source and licence. Kinds of users may have none."""
    found: dict[str, list[str]] = {}
    for kind in DATA_KINDS.values():
        found |= getattr(import_module(kind.module.partition(":")[0]), "rows", dict)()
    return found


def data_table() -> str:
    """All sets in Markdown; each kind's file has the rows of its sets."""
    lines = [
        "| set | what | sample | classes | train / val / test | download | code | source | licence |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, cells in sorted(data_rows().items()):
        lines.append(f"| {' | '.join([f'[`{name}`]({name}.yaml)', *cells])} |")
    return "\n".join(lines) + "\n"
