"""Each kind is trained, validated, tested and exported on the pretended device; how often a training step waits for it.

A recipe that mixes devices raises here, as it would on a GPU. The numbers in `WAITS` are bounds: lower them when a step
has become leaner.
"""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback

from deqzoo.data import ImageData, TextData
from deqzoo.data.episodes import EPISODE_SETS
from deqzoo.data.series_set import MissingPackageError
from deqzoo.models.registry import KINDS
from deqzoo.paths import names
from deqzoo.training import Run
from tests.data.episode_sets import put_in_place
from tests.data.stay_files import write_stays
from tests.data.test_series import fake_sktime
from tests.running import ROOT, composed
from tests.second_device.pretended import Waits
from tests.second_device.recipes import ALL, SMALL, SMALL_PICTURES, TWO_STEPS
from tests.texts import write_text

__all__ = ["fake_sktime"]

# Waits of a training step, by recipe of `SMALL`. Where a solver decides how often it looks, there is room for two more.
WAITS = {
    "deq_classifier": 2,
    "contractive_classifier": 4,
    "mdeq_classifier": 1,
    "mondeq_classifier": 4,
    "conv_classifier": 1,
    "residual_classifier": 1,
    "implicit_graph": 10,
    "graph_convolution": 1,
    "language_model": 2,
    "ode_classifier": 2,
    "ode_point_classifier": 2,
    "latent_ode": 5,
    "neural_cde": 9,
    "gru_d": 2,
    "node_pendulum": 29,
    "pinn_pendulum": 3,
    "latent_ode_stays": 56,  # an ODE from each observation to the next
    "latent_ode_interpolation": 7,
    "gru_d_stays": 2,
    "hamiltonian": 1,
    "node_orbits": 1,
    "flow": 2,
    "flow by matching": 1,
    "image_flow": 2,
    "meta_regression": 11,
    "few_shot": 9,
    "deblur": 7,
    "implicit_pictures": 13,
    "siren_pictures": 1,
    "sudoku_equilibrium": 1,
    "maze_planner": 16,
    "maze_layers": 1,
    "sudoku_program": 17,
    "sudoku_conv": 1,
    "cell_search": 59,
    "learned_decay": 33,
    "data_cleaning": 31,
}
WAITS_OF_RECIPES = {"deq_cifar": 6, "node_mnist": 4}  # as they are in the zoo
QUICK = "contractive_classifier", "ode_point_classifier", "flow", "few_shot"  # the others: `.ci/run` has them run
CLASSES, PER_CLASS = 20, 20  # of each part of an imitated set of episodes
COUNTED = 3  # the step whose waits are counted: the first ones send tables, and make what is kept


def test_each_kind_has_a_recipe():
    assert {name.partition(" ")[0] for name in SMALL} == set(KINDS)


class CountWaits(Callback):
    """Counts the waits of one training step, with the making of its batch, and without those of logging."""

    def __init__(self):
        self.waits, self.steps = Waits(), 0

    def on_train_batch_start(self, *_):
        self.steps += 1
        if self.steps == COUNTED:
            self.waits.__enter__()
        if self.steps == COUNTED + 1:
            self.waits.__exit__()


class _Logged:
    """Where each value was that was logged to be reduced over processes, by its name."""

    def __init__(self, monkeypatch):
        self.devices = {}
        log = LightningModule.log

        def watched(module, name, value, *args, **options):
            if options.get("sync_dist"):
                self.devices[name] = _device(value, module)
            return log(module, name, value, *args, **options)

        monkeypatch.setattr(LightningModule, "log", watched)


def _device(value, module):
    """The device of a number, a tensor or a metric; numbers are put on the module's by Lightning."""
    return getattr(value, "device", module.device)


@pytest.fixture
def words(request, tmp_path, monkeypatch):
    """The command line of a recipe of `SMALL`."""
    put_in_place(monkeypatch)
    request.getfixturevalue("fake_sktime")
    for name, value in SMALL_PICTURES.items():
        monkeypatch.setattr(name, value)
    text = [f"data.file={write_text(tmp_path / 'own.txt')}"] if request.param == "language_model" else []
    stays = [f"data.root={write_stays(tmp_path)}"] if "data.verify=false" in SMALL[request.param] else []
    return [*SMALL[request.param], *ALL, *text, *stays]


def in_a_process_of_its_own(node) -> bool:
    """Run the test there, and return True; False: this is that process.

    Autograd learns at its first backward pass of a process what devices there are. Gradients inside of gradients, as
    meta-learning takes them, are refused on one that came later, as the pretended device does after other tests.
    """
    if "DEQZOO_OWN_PROCESS" in os.environ:
        return False
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "", "-p", "no:cacheprovider"]
    environment = os.environ | {"DEQZOO_OWN_PROCESS": "1"}
    done = subprocess.run(
        [*command, f"{__file__}::{node.name}"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    return True


@pytest.mark.parametrize(
    ("words", "name"),
    [pytest.param(name, name, marks=() if name in QUICK else pytest.mark.slow) for name in SMALL],
    indirect=["words"],
    ids=SMALL,
)
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_fit_validate_test_and_export(words, name, device, tmp_path, monkeypatch, request):
    if name in ("meta_regression", "few_shot") and in_a_process_of_its_own(request.node):
        return
    logged, count = _Logged(monkeypatch), CountWaits()
    run = Run(composed(*words), tmp_path / "run")
    monkeypatch.setattr(run, "_progress", lambda: [count])
    run.fit()
    run.test()
    run.export()
    assert run.device == device
    assert run.metrics["steps"] == COUNTED + 1
    assert Path(run.folder / "export" / "model.safetensors").is_file()
    # NCCL reduces what stands on its GPU alone.
    assert {"test/n", "test/loss"} <= logged.devices.keys()
    assert {name for name, place in logged.devices.items() if place != device} == set()
    assert count.waits.total <= WAITS[name], f"\n{count.waits}"


def imitate_data(monkeypatch, tmp_path):
    """Noise in place of the images that would have to be downloaded, and a small text."""

    def setup(data, stage=None):
        draw, count = torch.Generator().manual_seed(0), 3000
        images = torch.randint(0, data.spec.white + 1, (count, *data.spec.shape), generator=draw).to(torch.uint8)
        data.tensors = images, torch.arange(count) % len(data.classes)
        data.parts = dict(zip(("train", "val", "test"), torch.arange(count).split(count // 3), strict=True))

    text = write_text(tmp_path / "own.txt", lines=2000).read_text()
    monkeypatch.setattr(ImageData, "setup", setup)
    monkeypatch.setattr(TextData, "_texts", lambda data: dict.fromkeys(("train", "val", "test"), text))
    for kind in (ImageData, TextData):
        monkeypatch.setattr(kind, "prepare_data", lambda data: None)
    for name, spec in EPISODE_SETS.items():
        shape = 3 * CLASSES, PER_CLASS, spec.channels, spec.size, spec.size
        images = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)).to(torch.uint8)
        split = dict(zip(("train", "val", "test"), torch.arange(3 * CLASSES).split(CLASSES), strict=True))
        stand_in = {
            "read": lambda folder, images=images: (images, [f"class {i}" for i in range(len(images))]),
            "split": lambda names, split=split: split,
            "counts": (CLASSES,) * 3,
        }
        changed = dataclasses.replace(spec, files={}, per_class=PER_CLASS, **stand_in)
        monkeypatch.setitem(EPISODE_SETS, name, changed)


@pytest.mark.slow
@pytest.mark.parametrize("entry", WAITS_OF_RECIPES)
def test_waits_of_a_recipe(entry, device, tmp_path, monkeypatch):
    imitate_data(monkeypatch, tmp_path)
    few = ["data.batch_size=16", "data.eval_batch_size=16", "trainer.limit_val_batches=1"]
    run, count = Run(composed(f"model={entry}", *ALL, *few), tmp_path / "run"), CountWaits()
    monkeypatch.setattr(run, "_progress", lambda: [count])
    run.fit()
    assert count.steps == COUNTED + 1
    assert count.waits.total <= WAITS_OF_RECIPES[entry], f"\n{count.waits}"


@pytest.mark.slow
@pytest.mark.parametrize("entry", names("models"))
@pytest.mark.filterwarnings("ignore")
def test_two_steps_of_each_recipe(entry, device, tmp_path, monkeypatch, request):
    if "maml" in entry and in_a_process_of_its_own(request.node):
        return
    imitate_data(monkeypatch, tmp_path)
    for name, value in SMALL_PICTURES.items():
        monkeypatch.setattr(name, value)
    fewer = ["data.train_size=1000"] if entry == "data_cleaning_mnist" else []  # no more are imitated
    if entry in ("deq_sudoku", "deq_sudoku_tokens"):  # none is drawn before
        fewer = [f"data.root={tmp_path}", "data.train_size=8", "data.val_size=4", "data.test_size=4"]
        fewer.append("data.collections=false")
    try:
        run = Run(composed(f"model={entry}", *ALL, *TWO_STEPS, *fewer), tmp_path / "run")
    except MissingPackageError as error:
        pytest.skip(str(error))
    run.fit()
    run.test()
    assert run.metrics["steps"] == 2
    assert run.device == device
