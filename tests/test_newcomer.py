"""What a newcomer does in the first ten minutes, with what README.md says and nothing else."""

import numpy as np
import onnxruntime
import torch
from torch import nn

import deqzoo
from deqzoo import DEQ, odeint
from deqzoo.nn import ContractiveLinearCell, MLPDynamics, NeuralODE


def trained(model, loss, steps):
    """The losses of a plain training loop."""
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=1e-2), []
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses


def test_trains_a_deq_of_ones_own():
    model = nn.Sequential(nn.Linear(2, 32), DEQ(ContractiveLinearCell(32), solver="picard"), nn.Linear(32, 2))
    x = torch.randn(256, 2)
    y = (x.square().sum(1) > 1.4).long()
    trained(model, lambda: nn.functional.cross_entropy(model(x), y), 50)
    assert (model.eval()(x).argmax(1) == y).float().mean() > 0.9
    assert "256 of 256 systems converged" in repr(model[1].solution)


def test_trains_a_neural_ode_of_ones_own():
    times, starts = torch.linspace(0, 2, 20), torch.randn(32, 2)
    A = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]])
    seen = odeint(lambda t, y: y @ A.T, starts, times)
    model = NeuralODE(MLPDynamics(2, activation="tanh"))
    losses = trained(model, lambda: nn.functional.mse_loss(model(starts, times), seen), 40)
    assert losses[-1] < losses[0] / 3
    assert bool(model.solution.converged.all())


def test_fine_tunes_exports_and_loads(tmp_path):
    images, parity = torch.rand(16, 1, 8, 8), torch.randint(2, (16,))
    model = deqzoo.load("deq_digits", classes=["even", "odd"])
    losses = trained(model, lambda: nn.functional.cross_entropy(model(images), parity), 5)
    assert losses[-1] < losses[0]

    deqzoo.export(model, tmp_path / "parity", metrics={})
    again = deqzoo.load(tmp_path / "parity")
    assert again.classes == ("even", "odd")
    torch.testing.assert_close(again(images), model(images))

    deqzoo.export_onnx(again, tmp_path / "parity.onnx", images)
    session = onnxruntime.InferenceSession(tmp_path / "parity.onnx")
    (logits,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    assert np.abs(logits - again(images).detach().numpy()).max() < 1e-2
