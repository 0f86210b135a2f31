"""Plots with a palette: smaller, and the same to the eye."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deqzoo.paths import zoo_path
from deqzoo.plots.figure import panels, save
from deqzoo.zoo.palette import use_palette


def opened(path):
    with Image.open(path) as image:
        image.load()
        return image


def pixels(path):
    return np.asarray(opened(path).convert("RGB")).astype(float)


def test_a_plot_takes_less_than_half_and_looks_the_same(tmp_path):
    figure, (axis,) = panels(1, "Waves")
    x = np.linspace(0, 6, 500)
    for shift in range(8):
        axis.plot(x, np.sin(x + shift), alpha=0.5)
    file = save(figure, tmp_path / "waves.png")
    before, size = pixels(file), file.stat().st_size
    assert use_palette(file)
    assert file.stat().st_size < size / 2
    assert np.abs(pixels(file) - before).mean() < 0.5
    assert not use_palette(file), "it has one already"
    assert [path.name for path in tmp_path.iterdir()] == ["waves.png"]


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_photographs_and_what_one_sees_through_stay(tmp_path, mode):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, len(mode)), dtype=np.uint8)
    file = tmp_path / "noise.png"
    Image.fromarray(noise).save(file)
    assert not use_palette(file)
    assert np.array_equal(np.asarray(opened(file)), noise)


def test_what_would_grow_stays(tmp_path):
    file = tmp_path / "dot.png"
    Image.new("L", (1, 1)).save(file)
    assert not use_palette(file)
    assert opened(file).mode == "L"


def test_shipped_plots_have_one_where_it_saves_something(tmp_path):
    for plot in zoo_path("checkpoints").glob("*/plots/*.png"):
        assert not use_palette(Path(shutil.copy(plot, tmp_path / plot.name))), plot
