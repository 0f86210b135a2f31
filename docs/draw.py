"""Draws the pictures of README.md and of the documentation: ``python docs/draw.py [hero] [gradient] [badges]``."""

from __future__ import annotations

import re
import sys
import tomllib
from itertools import pairwise
from pathlib import Path

import torch
from matplotlib.animation import PillowWriter
from matplotlib.figure import Figure
from torch import Tensor

import deqzoo
from deqzoo.plots.figure import COLORS, panels, save

FOLDER = Path(__file__).parent / "pictures"
FRAMES = 24


def equilibria(angles: Tensor, steps: int) -> Tensor:
    """Iterates of z <- .72 R z + x, (steps, N, 2), for inputs x on a flower, R a rotation: they spiral in."""
    turn = torch.tensor(0.9)
    R = torch.stack([torch.stack([turn.cos(), -turn.sin()]), torch.stack([turn.sin(), turn.cos()])])
    x = (1 + 0.35 * torch.cos(5 * angles))[:, None] * torch.stack([angles.cos(), angles.sin()], 1)
    f = lambda z: 0.72 * z @ R.T + x  # noqa: E731
    z0 = 1.6 * torch.randn(len(angles), 2)
    _, solution = deqzoo.fixed_point(
        f, z0, solver=deqzoo.implicit.Picard(tol=1e-6, keep=tuple(range(1, steps))), batch_dims=1, return_solution=True
    )
    return torch.stack([z0, *solution.kept])


def hero(path: Path) -> None:
    """Left: equilibria form. Right: noise becomes data along an ODE. A GIF."""
    torch.manual_seed(0)
    angles = 2 * torch.pi * torch.arange(500) / 500
    ways = equilibria(angles, FRAMES)
    flow = deqzoo.load("cnf_pinwheel_fm", trainable=False)
    with torch.no_grad():
        times = torch.linspace(0, 1, FRAMES)
        states = flow.flow.states(torch.randn(1200, 2), times)
    figure = Figure(figsize=(7.2, 3.3), layout="constrained")
    axes = figure.subplots(1, 2)
    titles = ("fixed_point:  z = f(z, x)", "odeint:  dx/dt = f(t, x)")
    for axis, title, limit in zip(axes, titles, (2.6, 4.0), strict=True):
        axis.set_title(title, family="monospace", fontsize=11)
        axis.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    left = axes[0].scatter(*ways[0].T, s=3, c=angles, cmap="turbo", linewidths=0)
    right = axes[1].scatter(*states[0].T, s=2, color=COLORS[0], linewidths=0)
    notes = [axis.text(0.5, 0.0, "", transform=axis.transAxes, ha="center", fontsize=9) for axis in axes]
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    writer = PillowWriter(fps=10)
    with writer.saving(figure, str(path), dpi=80):
        for frame in range(FRAMES):
            left.set_offsets(ways[frame])
            right.set_offsets(states[frame])
            notes[0].set_text(f"step {frame}")
            notes[1].set_text(f"t = {times[frame]:.2f}")
            writer.grab_frame()
    shrink(path)


def shrink(path: Path) -> None:
    """The same GIF with few colours."""
    from PIL import Image, ImageSequence

    with Image.open(path) as image:
        frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(image)]
    palette = frames[-1].quantize(32)
    colours = palette.getpalette() or []
    brightest = max(range(0, len(colours), 3), key=lambda start: sum(colours[start : start + 3]))
    colours[brightest : brightest + 3] = [255, 255, 255]  # the ground, which was averaged with what lies on it
    palette.putpalette(colours)
    frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    times = [*[100] * (len(frames) - 1), 1500]  # ms
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=times, loop=0, optimize=True)


def gradient(path: Path) -> None:
    """The fixed point of cos(a z), how a solver walks to it, and its derivative in a. A PNG."""
    a = torch.linspace(0.2, 1.6, 100)
    f = lambda z, a: torch.cos(a * z)  # noqa: E731
    of_one = lambda a: deqzoo.fixed_point(f, torch.tensor(0.5), a)  # noqa: E731
    solve, slope = torch.vmap(of_one), torch.vmap(torch.func.grad(of_one))
    figure, (walk, curve) = panels(2, "A fixed point, and its derivative by one linear solve")
    z = torch.linspace(0, 1.1, 100)
    walk.plot(z, torch.cos(1.2 * z), color=COLORS[0], label="f(z, a) = cos(a z), a = 1.2")
    walk.plot(z, z, color="0.6", linewidth=1, label="z")
    steps = [torch.tensor(0.1)]
    for _ in range(12):
        steps.append(torch.cos(1.2 * steps[-1]))
    for before, after in pairwise(steps):
        walk.plot([before, before, after], [before, after, after], color=COLORS[1], linewidth=0.8)
    walk.plot([steps[0]], [steps[0]], "o", color=COLORS[1], markersize=4, label="steps of plain iteration")
    walk.set(xlabel="z", ylabel="f(z, a)")
    walk.legend(frameon=False, fontsize=8, loc="upper right", bbox_to_anchor=(1, 0.25))
    curve.plot(a, solve(a), color=COLORS[0], label="z*(a)")
    chosen = torch.tensor([0.5, 0.9, 1.3])
    for at, value, rise in zip(chosen, solve(chosen), slope(chosen), strict=True):
        ends = torch.tensor([-0.18, 0.18])
        curve.plot(
            at + ends, value + rise * ends, color=COLORS[1], linewidth=2, label="slope" if at == chosen[0] else None
        )
        curve.plot([at], [value], "o", color=COLORS[1], markersize=4)
    curve.set(xlabel="a", ylabel="z*")
    curve.legend(frameon=False)
    save(figure, path)


def badges() -> dict[str, str]:
    """SVG files, by name, of what pyproject.toml says."""
    project = tomllib.loads((FOLDER.parents[1] / "pyproject.toml").read_text())["project"]
    lowest, below = re.findall(r"3\.(\d+)", project["requires-python"])
    (torch_lowest,) = (line for line in project["dependencies"] if re.match(r"torch\W", line))
    return {
        "licence": badge("licence", project["license"]),
        "python": badge("python", f"3.{lowest} to 3.{int(below) - 1}"),
        "torch": badge("torch", f"{torch_lowest.partition('>=')[2].partition(' ')[0]} and newer"),
    }


def badge(label: str, value: str) -> str:
    """Two words on two grounds."""
    left, right = 7 * len(label) + 12, 7 * len(value) + 12
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="20" role="img" '
        f'aria-label="{label}: {value}"><rect width="{left}" height="20" fill="#555"/>'
        f'<rect x="{left}" width="{right}" height="20" fill="{COLORS[0]}"/>'
        f'<g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11" text-anchor="middle">'
        f'<text x="{left / 2}" y="14">{label}</text><text x="{left + right / 2}" y="14">{value}</text></g></svg>\n'
    )


def main(names: list[str]) -> None:
    """Draw what is asked for, or all."""
    FOLDER.mkdir(exist_ok=True)
    if "hero" in names or not names:
        hero(FOLDER / "hero.gif")
    if "gradient" in names or not names:
        gradient(FOLDER / "gradient.png")
    if "badges" in names or not names:
        for name, svg in badges().items():
            (FOLDER / f"{name}.svg").write_text(svg)


if __name__ == "__main__":
    main(sys.argv[1:])
