"""Models as ONNX files: run by onnxruntime they give what the solvers give."""

import inspect

import numpy as np
import pytest
import torch
from torch import nn

import deqzoo
from deqzoo.implicit import Picard, Tsit5
from deqzoo.nn import DEQ, MLPDynamics, NeuralODE, fixed_steps, solver_layers
from deqzoo.zoo.folder import read_golden
from deqzoo.zoo.shipped import shipped_folder

onnxruntime = pytest.importorskip("onnxruntime")


def run(path, *inputs):
    session = onnxruntime.InferenceSession(str(path))
    given = {each.name: value.numpy() for each, value in zip(session.get_inputs(), inputs, strict=True)}
    (output,) = session.run(["output"], given)
    return torch.from_numpy(np.asarray(output))


def golden_inputs(name, model):
    golden = read_golden(shipped_folder(name))[0]
    return tuple(golden[each] for each in inspect.signature(model.forward).parameters if each in golden)


def relative(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.slow
def test_logits_of_an_equilibrium_for_batches_of_any_size(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), DEQ(Cell()), nn.Linear(4, 2))
    path = deqzoo.export_onnx(model, tmp_path / "model.onnx", torch.randn(5, 3))
    model[1].solver = model[1].default_solver.__class__(tol=1e-6)
    for batch in (5, 9):
        x = torch.randn(batch, 3)
        assert relative(run(path, x), model(x).detach()) < 1e-3
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


class Cell(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, z, x):
        return torch.tanh(0.5 * self.linear(z) + x)


@pytest.mark.slow
def test_an_entry(tmp_path):
    images = read_golden(shipped_folder("deq_digits"))[0]["images"]
    path = deqzoo.export_onnx(deqzoo.load("deq_digits"), tmp_path / "model.onnx", images, tol=3e-4)
    exact = deqzoo.load("deq_digits", trainable=False, tol=1e-5, max_steps=5000)
    assert relative(run(path, images), exact(images)) < 1e-3


CALLS = {  # entry -> the method that is exported
    "node_spheres": "forward",
    "ign_chains": "forward",
    "gcn_chains": "forward",
    "unrolled_deblur": "forward",
    "deq_lm_shakespeare": "forward",
    "cnf_moons": "log_prob",
    "cnf_moons_fm": "from_base",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_entries_of_each_kind(name, tmp_path):
    model, method = deqzoo.load(name, trainable=False), CALLS[name]
    inputs = (torch.randn(16, 2),) if name.startswith("cnf") else golden_inputs(name, model)
    path = deqzoo.export_onnx(model, tmp_path / "model.onnx", *inputs, method=method)
    with torch.no_grad():
        expected = getattr(fixed_steps(model, *inputs, tol=1e-5, method=method), method)(*inputs)
    found = run(path, *inputs)
    assert found.shape == expected.shape
    assert relative(found, expected) < 3e-3  # each layer within 1e-3 of its solution


@pytest.mark.slow
def test_an_adapted_learner(tmp_path):
    torch.manual_seed(0)
    x, queries = 10 * torch.rand(10, 1) - 5, torch.randn(7, 1)
    adapted = deqzoo.load("imaml_sinusoid").adapt(x, 2 * torch.sin(x - 1))
    path = deqzoo.export_onnx(adapted, tmp_path / "model.onnx", queries)
    assert relative(run(path, queries), adapted(queries).detach()) < 1e-5


REFUSED = {  # entry -> what is told
    "imaml_sinusoid": "export the network that its adapt",
    "imaml_omniglot_5w1s": "export the network that its adapt",
    "optnet_sudoku4": "ProgramLayer cannot take a fixed",
    "mondeq_mnist": "ONNX: it has an operation that ONNX has not",
    "cnf_digits": "ONNX: it has an operation that ONNX has not",
    "deq_sudoku4": "ONNX: it draws random numbers",
    "latent_ode_vowels": "NeuralODE with times in a tensor",
    "ncde_vowels": "NeuralCDE with times in a tensor",
    "grud_vowels": "ONNX: which operations it runs depends on the values of its inputs",
    "hnn_pendulum": "HamiltonianODE with times in a tensor",
    "pinn_pendulum": "does not call the model's NeuralODE",
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n == "mondeq_mnist" else n for n in REFUSED]
)
def test_the_rest_is_refused(name, tmp_path):
    model = deqzoo.load(name)
    with pytest.raises(ValueError, match=REFUSED[name]):
        deqzoo.export_onnx(model, tmp_path / "x.onnx", *golden_inputs(name, model))
    assert not list(tmp_path.iterdir())


def test_estimates_are_refused(tmp_path):
    flow = deqzoo.ContinuousFlow(MLPDynamics(2), (2,), eval_divergence="rademacher")
    with pytest.raises(ValueError, match="estimate"):
        deqzoo.export_onnx(flow, tmp_path / "x.onnx", torch.zeros(2, 2))
    assert not list(tmp_path.iterdir())


def test_a_fixed_number_of_steps_comes_as_near_as_was_asked():
    torch.manual_seed(0)
    deq, ode, x = DEQ(Cell()), NeuralODE(MLPDynamics(4)), torch.randn(6, 4)
    ode.dynamics.layers[-1].weight.data *= 5
    for layer in (deq, ode):
        steps = []
        for tol in (1e-1, 1e-3):
            fixed = fixed_steps(layer, x, tol=tol)
            exact = fixed_steps(layer, x, tol=1e-5)
            assert relative(fixed(x), exact(x)) < 1.01 * tol
            (inner,) = solver_layers(fixed)
            steps.append(inner.solution.nfe)
            assert not any(parameter.requires_grad for parameter in fixed.parameters())
        assert steps[1] > steps[0]
    assert deq.solver == DEQ.default_solver  # the model itself stays as it is


def test_what_no_number_of_steps_reaches():
    with pytest.raises(ValueError, match=r"does not come within tol=0\.001 .* by 1024 plain steps"):
        fixed_steps(DEQ(lambda z, x: 1 - 30 * z + x, on_failure="ignore"), torch.ones(2, 3))


def test_an_unrolled_network_stays_as_it_is():
    deq, x = DEQ(Cell(), solver=Picard(max_steps=2, stop="never")), torch.randn(3, 4)
    fixed = fixed_steps(deq, x, tol=1e-5)
    assert fixed.solver == deq.solver
    torch.testing.assert_close(fixed(x), deq(x))


def test_times_of_a_neural_ode_are_numbers(tmp_path):
    ode, x = NeuralODE(MLPDynamics(4)), torch.randn(6, 4)
    fixed = fixed_steps(ode, x, [0.0, 0.5, 3.0], tol=1e-4)
    assert (
        relative(fixed(x, [0.0, 0.5, 3.0]), NeuralODE(ode.dynamics, solver=Tsit5(1e-6, 1e-6))(x, [0, 0.5, 3.0])) < 1e-4
    )
    with pytest.raises(ValueError, match="times that are numbers"):
        deqzoo.export_onnx(ode, tmp_path / "x.onnx", x, torch.tensor([0.0, 3.0]))
    assert not list(tmp_path.iterdir())
