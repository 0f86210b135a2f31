"""A solve with a fixed number of steps and its exact gradient are one graph forward and one backward."""

import copy
import itertools
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.utils import counters

from deqzoo.config import TrainerConfig
from deqzoo.implicit import (
    CG,
    GMRES,
    RK4,
    Anderson,
    Broyden,
    Direct,
    Discrete,
    Euler,
    Heun,
    Implicit,
    Neumann,
    Picard,
    Tsit5,
    fixed_point,
    odeint,
)
from deqzoo.models.equilibrium.contractive_network import contractive_net
from deqzoo.nn import DEQ, NeuralODE
from deqzoo.training.device import speed_up

F64 = torch.float64


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    counters.clear()
    torch.manual_seed(0)


class Cell(nn.Module):
    """tanh(W z / 10 + U x), z dropped out at a rate; the rate of convergence is below .1."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.w, self.u, self.dropout = nn.Linear(5, 5, dtype=F64), nn.Linear(3, 5, dtype=F64), nn.Dropout(dropout)

    def forward(self, z, x):
        return torch.tanh(0.1 * self.w(self.dropout(z)) + self.u(x))

    def initial_state(self, x):
        return x.new_zeros(len(x), 5)


def gradient_by_dense_solves(cell, x):
    """d sum(z^2) / d(x, parameters), the Jacobian written out."""
    z = torch.zeros(len(x), 5, dtype=F64)
    with torch.no_grad():
        for _ in range(200):
            z = cell(z, x)
    jacobian = torch.stack(
        [
            torch.func.jacrev(lambda z, x=x[i : i + 1]: cell(z.unsqueeze(0), x).squeeze(0))(z[i]).detach()
            for i in range(len(x))
        ]
    )
    u = torch.linalg.solve(torch.eye(5, dtype=F64) - jacobian.mT, 2 * z.unsqueeze(2)).squeeze(2)
    return torch.autograd.grad(cell(z, x), [x, *cell.parameters()], u)


def recording(graphs):
    """A backend that runs the graphs as they are, and keeps them."""

    def compiler(kind):
        def keep(module, inputs):
            graphs.append((kind, module))
            return torch._functorch.aot_autograd.make_boxed_func(module.forward)

        return keep

    return aot_autograd(fw_compiler=compiler("forward"), bw_compiler=compiler("backward"))


def recorded_part(monkeypatch, part, module, name):
    """The graphs of a part of a solve, which is compiled by itself: what `module.name()` gives, replaced."""
    torch._dynamo.reset()
    counters.clear()
    torch.manual_seed(0)
    found = []
    compiled = torch.compile(part, backend=recording(found), fullgraph=True)
    monkeypatch.setattr(module, name, lambda: compiled)
    return found


WAITS = "_local_scalar_dense", ".item", "nonzero", "_to_copy.device", "equal.default", "is_nonzero"

SOLVERS = [
    Picard(stop="never", max_steps=14),
    Anderson(stop="never", max_steps=7),
    Broyden(stop="never", max_steps=8),
]
LINEAR = [Neumann(k=14), Neumann(k=14, tol=1e-12), GMRES(max_steps=5)]
PAIRS = [(SOLVERS[0], linear) for linear in LINEAR] + [(solver, LINEAR[2]) for solver in SOLVERS[1:]]


@pytest.mark.parametrize(("solver", "linear_solver"), PAIRS, ids=lambda option: type(option).__name__)
def test_a_training_step_of_a_deq_is_one_graph_forward_and_one_backward(solver, linear_solver):
    cell, x = Cell(), torch.randn(4, 3, dtype=F64, requires_grad=True)
    deq, graphs = DEQ(cell, solver=solver, adjoint=Implicit(linear_solver)), []
    z = torch.compile(deq, backend=recording(graphs), fullgraph=True)(x)
    found = torch.autograd.grad(z.square().sum(), [x, *cell.parameters()])
    torch.testing.assert_close(found, gradient_by_dense_solves(cell, x), rtol=1e-9, atol=1e-11)
    assert [kind for kind, _ in graphs] == ["forward", "backward"]
    called = [str(node.target) for _, module in graphs for node in module.graph.nodes if node.op == "call_function"]
    assert not [name for name in called if any(wait in name for wait in WAITS)]
    assert sum("tanh.default" in name for name in called) <= solver.max_steps + 3  # one for the tape, one for products


@pytest.mark.slow
def test_captured_tensors_and_arguments_get_their_gradients():
    a = torch.tensor(0.4, dtype=F64, requires_grad=True)
    b = torch.tensor(0.3, dtype=F64, requires_grad=True)
    options = {"solver": Picard(stop="never", max_steps=14), "adjoint": Implicit(GMRES(max_steps=3))}

    def solve(b):
        state = fixed_point(
            lambda z, b: {"u": torch.cos(a * z["v"]), "v": b * z["u"]}, {"u": b * 0, "v": b * 0}, b, **options
        )
        return state["u"] + state["v"]

    compiled = torch.autograd.grad(torch.compile(solve, backend="aot_eager", fullgraph=True)(b), [a, b])
    torch.testing.assert_close(compiled, torch.autograd.grad(solve(b), [a, b]), rtol=1e-9, atol=0)


def test_another_batch_size_compiles_once_more_at_most():
    deq = DEQ(Cell(), solver=Picard(stop="never", max_steps=5), adjoint=Implicit(Neumann(k=4)))
    compiled = torch.compile(deq, backend="aot_eager", fullgraph=True)
    for batch in (4, 7, 9, 3):
        compiled(torch.randn(batch, 3, dtype=F64)).sum().backward()
    assert counters["stats"]["unique_graphs"] <= 2


def test_a_network_of_well_posed_equilibria_in_training():
    options = {"solver": Picard(stop="never", max_steps=5), "adjoint": Implicit(Neumann(k=4))}
    images, labels = torch.rand(6, 1, 16, 16), torch.tensor([0, 1, 0, 1, 0, 1])

    def steps(compiled):
        torch.manual_seed(0)
        network = contractive_net((16, 16), ["a", "b"], [0.5], [0.5], widths=[4, 6], **options)
        forward = torch.compile(network, backend="aot_eager", fullgraph=True) if compiled else network
        for _ in range(2):  # the second sees the power iteration's vector of the first
            nn.functional.cross_entropy(forward(images), labels).backward()
        return [parameter.grad for parameter in network.parameters() if parameter.grad is not None]

    torch.testing.assert_close(steps(True), steps(False), rtol=1e-4, atol=1e-6)


def test_autocast_is_that_of_the_forward():
    cell, x = Cell().float(), torch.randn(4, 3)
    deq = DEQ(cell, solver=Picard(stop="never", max_steps=8), adjoint=Implicit(Neumann(k=8)))

    def step(x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return deq(x)

    eager, compiled = (
        torch.autograd.grad(run(x).square().sum(), list(cell.parameters()))
        for run in (step, torch.compile(step, backend="aot_eager", fullgraph=True))
    )
    for found, expected in zip(compiled, eager, strict=True):
        assert torch.linalg.vector_norm(found - expected) < 0.02 * torch.linalg.vector_norm(expected)


class TwoParts(nn.Module):
    """A state of two tensors, each part driven by the other."""

    def __init__(self):
        super().__init__()
        self.w, self.v = nn.Linear(5, 2, dtype=F64), nn.Linear(2, 5, dtype=F64)

    def forward(self, z, x):
        return torch.tanh(0.3 * self.v(z[1]) + x), 0.3 * torch.tanh(self.w(z[0]))

    def initial_state(self, x):
        return torch.zeros_like(x), x.new_zeros(len(x), 2)


def test_a_state_of_two_parts_is_one_graph():
    cell, x = TwoParts(), torch.randn(4, 5, dtype=F64)
    deq = DEQ(cell, solver=Picard(stop="never", max_steps=40), adjoint=Implicit(Neumann(k=40)))
    found = []
    for run in (torch.compile(deq, backend="aot_eager", fullgraph=True), deq):
        z = run(x)
        found.append((z, torch.autograd.grad(z[0].square().sum() + z[1].sum(), list(cell.parameters()))))
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-12)


class Attending(Cell):
    """Its attention drops out by means of its own."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(5, 1, dropout=0.5, dtype=F64)

    def forward(self, z, x):
        return super().forward(self.attention(z, z, z, need_weights=False)[0], x)


def test_a_cell_whose_masks_cannot_be_had_stays_out_of_the_graph():
    x = torch.randn(4, 3, dtype=F64)
    solver = Picard(stop="never", max_steps=14)
    deq = DEQ(Attending(), solver=solver, adjoint=Implicit(Neumann(k=5)), batch_dims=0)
    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(deq, backend="aot_eager", fullgraph=True)(x)
    torch._dynamo.reset()
    torch.manual_seed(1)
    eager = deq(x)
    torch.manual_seed(1)
    torch.testing.assert_close(torch.compile(deq, backend="aot_eager")(x), eager)


@pytest.mark.parametrize("adjoint", [Implicit(), Implicit(CG()), Implicit(GMRES(max_steps=50, restart=30))], ids=repr)
def test_an_adjoint_solve_with_a_stop_of_its_own_is_no_part_of_the_graph(adjoint):
    deq = DEQ(Cell(), solver=Picard(stop="never", max_steps=5), adjoint=adjoint)
    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(deq, backend="aot_eager", fullgraph=True)(torch.randn(4, 3, dtype=F64))


# Ordinary differential equations


class Field(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Linear(3, 3, dtype=F64)

    def forward(self, t, y):
        return torch.tanh(self.w(y) + t)


METHODS = [(Euler(step_size=0.1), Discrete()), (Heun(), Direct()), (RK4(step_size=0.3), Discrete())]


@pytest.mark.parametrize(("solver", "adjoint"), METHODS, ids=lambda option: type(option).__name__)
def test_a_neural_ode_with_fixed_steps_is_one_graph(solver, adjoint):
    field, y0 = Field(), torch.randn(4, 3, dtype=F64, requires_grad=True)
    ode = NeuralODE(field, t=(0.5, 1.5), solver=solver, adjoint=adjoint)
    graphs: list = []
    found = []
    for run in (torch.compile(ode, backend=recording(graphs), fullgraph=True), ode):  # nothing was cached by a call
        y = run(y0)
        found.append((y, torch.autograd.grad(y.square().sum(), [y0, *field.parameters()])))
        report = ode.solution
        found.append((report.nfe, report.steps.tolist(), report.converged.all().item()))
    torch.testing.assert_close(found[0], found[2], rtol=1e-10, atol=1e-12)
    assert found[1] == found[3]
    assert [kind for kind, _ in graphs] == ["forward", "backward"]


class ImageField(nn.Conv2d):
    def forward(self, t, y):
        return torch.tanh(super().forward(y))


def test_a_neural_ode_with_a_penalty_is_one_graph():
    """Its state has two parts: the images, and the integral of the penalty."""
    conv, y0 = ImageField(2, 2, 3, padding=1, dtype=F64), torch.randn(3, 2, 4, 4, dtype=F64)
    ode = NeuralODE(conv, solver=RK4(step_size=0.5), penalties=["kinetic"])
    found = []
    for run in (torch.compile(ode, backend="aot_eager", fullgraph=True), ode):
        y = run(y0)
        loss = y.square().sum() + ode.path["kinetic"].sum()
        found.append((y, ode.path["kinetic"], torch.autograd.grad(loss, list(conv.parameters()))))
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("batch_dims", "shared"), [(0, False), (1, False), (1, True)])
def test_odeint_with_fixed_steps_backwards_in_time(batch_dims, shared):
    rate = torch.tensor(0.7, dtype=F64, requires_grad=True)
    y0 = torch.randn(4, 3, dtype=F64)

    def solve(y0):
        def f(t, y):
            return -rate * y * (t.unsqueeze(1) if t.dim() else t)

        return odeint(f, y0, [1.0, 0.4, 0.0], solver=RK4(step_size=0.25), batch_dims=batch_dims, shared_steps=shared)

    eager, compiled = solve(y0), torch.compile(solve, backend="aot_eager", fullgraph=True)(y0)
    torch.testing.assert_close(compiled, eager, rtol=1e-11, atol=1e-12)
    slopes = [torch.autograd.grad(y[-1].sum(), rate)[0] for y in (eager, compiled)]
    torch.testing.assert_close(*slopes, rtol=1e-10, atol=1e-12)


def test_steps_that_an_error_controls_are_no_part_of_the_graph():
    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(NeuralODE(Field(), solver=Tsit5()), backend="aot_eager", fullgraph=True)(
            torch.ones(2, 3).double()
        )


BREAKS = {  # graph breaks of a call, and why: the solve is left alone by the compiler, and so is what reads the status
    "deq": (lambda: DEQ(Cell(), solver=Picard(tol=1e-3)), 3),
    "ode": (lambda: NeuralODE(Field(), solver=Tsit5()), 3),
}


@pytest.mark.parametrize("name", BREAKS)
def test_the_number_of_graph_breaks_of_a_solve_that_stops_by_itself(name):
    make, most = BREAKS[name]
    explained = torch._dynamo.explain(make())(torch.randn(4, 3, dtype=F64))
    assert 1 <= explained.graph_break_count <= most, explained.break_reasons


def test_all_steps_are_taken_by_the_linear_solvers_that_say_so():
    for solver, fixed in itertools.chain(
        [(Neumann(k=3), True), (Neumann(tol=1e-3), True), (GMRES(max_steps=30), True)],
        [(GMRES(), False), (GMRES(max_steps=31), False), (CG(), False), (CG(max_steps=5), False)],
    ):
        assert solver.all_steps == fixed, solver


FIXED = {
    "deq": lambda: DEQ(Cell(), solver=Picard(stop="never", max_steps=3), adjoint=Implicit(Neumann(k=2))),
    "ode": lambda: NeuralODE(Field(), solver=RK4(step_size=0.5)),
}
FREE = {"deq": lambda: DEQ(Cell(), solver=Picard(max_steps=3)), "ode": lambda: NeuralODE(Field(), solver=Tsit5())}


@pytest.mark.parametrize("name", FIXED)
def test_a_run_compiles_layers_of_fixed_steps_whole(name, monkeypatch):
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda module: compiled.append(type(module).__name__))
    monkeypatch.setattr(torch, "compile", lambda call, **_: compiled.append("whole"))
    for make in (FIXED[name], FREE[name]):
        speed_up(nn.Sequential(make()), SimpleNamespace(compile=True), TrainerConfig())
    assert compiled == ["whole", {"deq": "Cell", "ode": "Field"}[name]]


@pytest.mark.parametrize("name", FIXED)
def test_calls_in_training_alone_are_compiled(name):
    layer, x, graphs = FIXED[name](), torch.randn(4, 3, dtype=F64), []
    expected = layer(x)
    layer.compile_training(backend=recording(graphs), fullgraph=True)
    torch.testing.assert_close(layer(x), expected, rtol=1e-11, atol=1e-12)
    assert [kind for kind, _ in graphs] == ["forward"]
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected.detach(), rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(layer.eval()(x), expected, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(copy.deepcopy(layer).train()(x), expected, rtol=1e-11, atol=1e-12)  # and no copy
    assert len(graphs) == 1
