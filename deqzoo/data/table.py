"""The table of all data sets, for ``data/README.md``."""

from collections.abc import Callable

from deqzoo.data import (
    chains,
    density_points,
    episodes,
    noisy_images,
    points,
    registry,
    series,
    sinusoids,
    text_sets,
)

Rows = dict[str, list[str]]  # of each set: what it is, sample, classes, parts, download, code, source, licence

SOURCES: tuple[Callable[[], Rows], ...] = (
    registry.rows,
    points.rows,
    series.rows,
    text_sets.rows,
    chains.rows,
    density_points.rows,
    sinusoids.rows,
    episodes.rows,
    noisy_images.rows,
)


def data_table() -> str:
    """All sets in Markdown."""
    lines = [
        "| set | what | sample | classes | train / val / test | download | code | source | licence |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    found = {name: cells for rows in SOURCES for name, cells in rows().items()}
    for name, cells in sorted(found.items()):
        lines.append(f"| {' | '.join([f'[`{name}`]({name}.yaml)', *cells])} |")
    return "\n".join(lines) + "\n"
