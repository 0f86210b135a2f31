"""What a package of a user's own adds by a line each: CONTRIBUTING names the tables. No file of deqzoo is touched."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

import deqzoo
from deqzoo.config import RunConfig, data_config, model_config
from deqzoo.data import DATASETS
from deqzoo.data.formats import Images
from deqzoo.data.kinds import DATA_KINDS, DataKind, make_data
from deqzoo.data.table import data_table
from deqzoo.implicit import EQUATION_ADJOINTS, SOLVERS, fixed_point, make_adjoint, make_solver
from deqzoo.models.common.metrics import METRICS, Metric
from deqzoo.models.registry import KINDS, KindPlace
from deqzoo.training import Run

from . import extension


@pytest.fixture
def registered(monkeypatch):
    here = extension.__name__
    monkeypatch.setitem(SOLVERS, "krasnoselskii", extension.Krasnoselskii)
    monkeypatch.setitem(EQUATION_ADJOINTS, "two_steps", extension.TwoSteps)
    monkeypatch.setitem(DATA_KINDS, "rings", DataKind(f"{here}:RingConfig", f"{here}:RingData"))
    monkeypatch.setitem(KINDS, "ring_net", KindPlace(f"{here}:RingNetConfig", f"{here}:KIND"))
    monkeypatch.setitem(METRICS, "margin", Metric("margin of the right class", ".3f"))


def test_a_run_of_what_is_registered_from_outside(registered, tmp_path, capsys):
    settings = OmegaConf.structured(RunConfig)
    settings.entry = "ring_net"
    settings.model = model_config(
        {
            "kind": "ring_net",
            "solver": "krasnoselskii",
            "solver_options": {"tol": 1e-2, "max_steps": 100},
            "adjoint": "two_steps",
            "lr": 0.03,
        },
        "a test",
    )
    settings.data = data_config({"kind": "rings", "batch_size": 20}, "a test")
    settings.trainer.max_epochs, settings.trainer.enable_progress_bar = 10, False
    run = Run(settings, tmp_path)
    assert isinstance(run.module.network.deq.solver, extension.Krasnoselskii)
    assert isinstance(run.module.network.deq.adjoint, extension.TwoSteps)
    run.fit()
    run.test()
    run.export()
    run.report()
    test = json.loads((tmp_path / "metrics.json").read_text())["test"]
    assert test["accuracy"] > 0.85  # more than half of the points lie outside
    assert test["margin"] > 0
    assert test["unconverged"] == 0
    assert "margin of the right class" in capsys.readouterr().out
    assert (tmp_path / "plots" / "ring.png").stat().st_size > 1000
    points = torch.tensor([[0.0, 0.1], [1.4, 1.4]])
    loaded = deqzoo.load(tmp_path / "export")
    assert [loaded.classes[i] for i in loaded(points).argmax(1)] == ["in", "out"]
    assert "| [`ring`](ring.yaml) | A circle |" in data_table()


def test_a_data_set_from_outside_is_read_from_its_file(monkeypatch, tmp_path):
    def read(content):
        pixels = np.frombuffer(content("stripes.bin"), np.uint8).reshape(-1, 1, 4, 4)
        return Images(pixels, (pixels[:, 0, 0, 1] > 0).astype(np.int64), np.arange(80, 100))

    stripes = replace(
        DATASETS["digits"], title="Stripes", shape=(1, 4, 4), classes=("rows", "columns"), n_train=80, n_test=20,
        val_size=10, folder="stripes", files={"stripes.bin": None}, read=read, white=1,
    )  # fmt: skip
    monkeypatch.setitem(DATASETS, "stripes", stripes)
    rows, columns = np.indices((4, 4)) % 2
    (tmp_path / "stripes").mkdir()
    (tmp_path / "stripes" / "stripes.bin").write_bytes(np.stack([rows, columns] * 50).astype(np.uint8).tobytes())
    settings = data_config({"kind": "images", "name": "stripes", "root": str(tmp_path)}, "a test")
    data = make_data(OmegaConf.to_object(settings), seed=0)
    data.prepare_data()
    data.setup()
    assert {part: len(indices) for part, indices in data.parts.items()} == {"train": 70, "val": 10, "test": 20}
    images, labels = next(iter(data.test_dataloader()))
    torch.testing.assert_close(images[labels == 1], torch.tensor(columns).expand(10, 1, 4, 4).float())
    assert "| [`stripes`](stripes.yaml) | Stripes |" in data_table()


def test_a_solver_and_an_adjoint_from_outside_go_by_their_names(registered):
    a = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    z = fixed_point(lambda z, a: torch.cos(a * z), a.new_zeros(()), a, solver="krasnoselskii", adjoint="two_steps")
    torch.testing.assert_close(z, torch.cos(a * z), rtol=1e-10, atol=0)
    assert z.requires_grad
    assert make_solver("krasnoselskii", tol=1e-3) == extension.Krasnoselskii(tol=1e-3)
    assert make_adjoint("two_steps") == extension.TwoSteps()


def test_without_their_lines_they_are_unknown():
    with pytest.raises(ValueError, match="unknown solver 'krasnoselskii'"):
        make_solver("krasnoselskii")
    with pytest.raises(ValueError, match="unknown adjoint 'two_steps'"):
        make_adjoint("two_steps")
