"""How the solves of a training end: recorded by a loop or by a Trainer, told in a line, drawn."""

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from deqzoo import DEQ, ConvergenceMonitor, NeuralODE
from deqzoo.implicit import Anderson
from deqzoo.nn import MLPDynamics


def deq(max_steps=30):
    cell = nn.Linear(2, 2, bias=False)
    nn.init.eye_(cell.weight).data.mul_(0.5)
    layer = DEQ(lambda z, x: torch.tanh(cell(z) + x), solver=Anderson(max_steps=max_steps), on_failure="ignore")
    return nn.Sequential(nn.Linear(2, 2), layer)


def test_rows_of_a_loop_and_their_picture(tmp_path):
    monitor = ConvergenceMonitor(every=2)
    assert monitor.summary().startswith("nothing recorded yet")
    with pytest.raises(ValueError, match=r"call record\(model\)"):
        monitor.plot(tmp_path / "x.png")
    for max_steps in (30, 30, 30, 1):
        model = deq(max_steps)
        model(torch.rand(4, 2)).sum().backward()
        monitor.record(model)
    assert [row["step"] for row in monitor.rows] == [2, 4]
    assert [row["unconverged"] for row in monitor.rows] == [0, 1]
    assert monitor.rows[0]["residual"] < 1e-5 < monitor.rows[1]["residual"]
    assert monitor.rows[1]["nfe"] == 2
    assert "50.0% samples did not converge (at most 100.0%, in step 4)" in monitor.summary()
    assert monitor.plot(tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_odes(tmp_path):
    model, monitor = NeuralODE(MLPDynamics(2)), ConvergenceMonitor()
    model(torch.rand(4, 2)).sum().backward()
    monitor.record(model)
    assert {"nfe", "nfe_backward", "steps", "rejected", "failed"} <= set(monitor.rows[0])
    assert "0.0% of the ODE solves failed" in monitor.summary()
    assert monitor.plot(tmp_path / "x.png").is_file()


class Module(LightningModule):
    def __init__(self):
        super().__init__()
        self.model = deq()

    def training_step(self, batch, index):
        return self.model(batch).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.filterwarnings("ignore::Warning:lightning")
def test_callback_of_a_trainer(tmp_path):
    monitor = ConvergenceMonitor()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = Trainer(max_epochs=1, callbacks=[monitor], default_root_dir=tmp_path, enable_model_summary=False, **quiet)
    trainer.fit(Module(), torch.utils.data.DataLoader(torch.rand(12, 2), batch_size=4))
    assert [row["step"] for row in monitor.rows] == [1, 2, 3]
    assert all(row["nfe_backward"] > 0 for row in monitor.rows)


def test_what_cannot_be():
    with pytest.raises(ValueError, match="every must be at least 1"):
        ConvergenceMonitor(0)
    with pytest.raises(ValueError, match="Linear has no layer that runs a solver"):
        ConvergenceMonitor().record(nn.Linear(2, 2))
