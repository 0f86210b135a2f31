"""`torch.compile`: of f, of the layer, and of a whole training step."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from deqzoo.implicit import Anderson, Broyden, Implicit, OneStep, Phantom, Picard, Unrolled, fixed_point
from deqzoo.nn import DEQ
from tests.implicit.problems import Cell, draw, loss

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(autouse=True)
def _fresh():
    """No compiled code of another test."""
    torch.compiler.reset()


def gradients(f, cell, x, **options):
    z = fixed_point(f, torch.zeros_like(x), x, batch_dims=1, on_failure="raise", **options)
    return z.detach(), torch.autograd.grad(loss(z), list(cell.parameters()))


@pytest.mark.parametrize(
    ("solver", "gradient"),
    [
        (Picard(), Implicit()),
        (Anderson(), Implicit()),
        (Broyden(), Implicit()),
        (Anderson(), Phantom()),
        (Anderson(), OneStep()),
        (Picard(), Unrolled()),
    ],
    ids=lambda option: type(option).__name__,
)
def test_compiled_function(solver, gradient):
    cell, x = Cell(), draw(4, 3)
    eager = gradients(cell, cell, x, solver=solver, adjoint=gradient)
    compiled = torch.compile(cell, backend="aot_eager", fullgraph=True)
    assert_close(gradients(compiled, cell, x, solver=solver, adjoint=gradient), eager, rtol=1e-8, atol=1e-9)


def test_function_is_compiled_once_for_all_steps():
    """The solve evaluates with and without the tape; neither may compile again at each step."""
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    cell, x = Cell(), draw(4, 3)
    compiled = torch.compile(cell, backend=backend, fullgraph=True)
    for _ in range(3):
        gradients(compiled, cell, x, solver=Picard())
    assert 1 <= len(graphs) <= 4


@pytest.mark.slow  # about 15 s of C++ compilation
def test_function_compiled_by_inductor():
    cell, x = Cell(), draw(4, 3)
    eager = gradients(cell, cell, x)
    assert_close(gradients(torch.compile(cell), cell, x), eager, rtol=1e-8, atol=1e-9)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.head = nn.Linear(5, 3).double(), nn.Linear(3, 2).double()
        self.deq = DEQ(Cell(), solver=Anderson(tol=1e-10))

    def forward(self, x):
        return self.head(self.deq(torch.relu(self.encoder(x))))


def train(net, step, steps=3):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    x, target = draw(6, 5), draw(6, 2, seed=1)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        losses.append(step(x, target).item())
        optimizer.step()
    return losses, [p.detach().clone() for p in net.parameters()]


def test_training_step():
    """Forward, loss and backward in one compiled function: as in eager, breaks in the graph and all."""

    def run(compile):
        torch.manual_seed(0)
        net = Network()

        def step(x, target):
            value = nn.functional.mse_loss(net(x), target)
            value.backward()
            return value

        return train(net, compile(step))

    eager = run(lambda step: step)
    compiled = run(lambda step: torch.compile(step, backend="aot_eager"))
    assert eager[0][-1] < eager[0][0]
    assert_close(compiled, eager, rtol=1e-7, atol=1e-8)


def test_network_compiled_as_a_module():
    torch.manual_seed(0)
    net = Network()
    x, target = draw(6, 5), draw(6, 2, seed=1)

    def slopes(forward):
        value = nn.functional.mse_loss(forward(x), target)
        return torch.autograd.grad(value, list(net.parameters()))

    assert_close(slopes(torch.compile(net, backend="aot_eager")), slopes(net), rtol=1e-7, atol=1e-9)
    assert net.deq.solution.converged.all()
    net.compile(backend="aot_eager")
    assert_close(slopes(net), slopes(net.forward), rtol=1e-7, atol=1e-9)


def test_compiled_network_without_a_tape():
    torch.manual_seed(0)
    net = Network().eval()
    x = draw(6, 5)
    compiled = torch.compile(net, backend="aot_eager")
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert_close(compiled(x), net(x), rtol=1e-9, atol=1e-10)


def test_compiled_function_under_autocast():
    cell, x = Cell().float(), draw(4, 3).float()

    def run(f):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            z = fixed_point(f, torch.zeros_like(x), x, solver=Picard(tol=1e-2), on_failure="ignore")
        return torch.autograd.grad(z.square().sum(), list(cell.parameters()))

    for found, exact in zip(run(torch.compile(cell, backend="aot_eager")), run(cell), strict=True):
        assert torch.linalg.vector_norm(found - exact) < 0.05 * torch.linalg.vector_norm(exact)


# --- a fixed number of steps: the whole solve is one graph ---


@pytest.mark.parametrize("solver", [Picard, Anderson, Broyden])
@pytest.mark.parametrize("gradient", [Phantom(steps=3), OneStep()], ids=lambda option: type(option).__name__)
def test_whole_solve_with_fixed_steps(solver, gradient):
    cell, x = Cell(), draw(4, 3)
    options = {"solver": solver(stop="never", max_steps=3), "adjoint": gradient, "batch_dims": 1}

    def solve(x):
        return fixed_point(cell, torch.zeros_like(x), x, on_failure="ignore", **options)

    found = []
    for run in (solve, torch.compile(solve, backend="aot_eager", fullgraph=True)):
        z = run(x)
        found.append((z, torch.autograd.grad(loss(z), list(cell.parameters()))))
    assert_close(found[1], found[0], rtol=1e-9, atol=1e-10)


def test_layer_with_fixed_steps_at_inference():
    deq, x = DEQ(Cell(), solver=Anderson(stop="never", max_steps=3)).eval(), draw(4, 3)
    with torch.no_grad():
        assert_close(torch.compile(deq, backend="aot_eager", fullgraph=True)(x), deq(x), rtol=1e-9, atol=1e-10)
