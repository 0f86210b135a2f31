"""A solve that stops by itself, its steps compiled by blocks: one graph each, one read of the host between them."""

import copy
import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deqzoo.implicit import (
    RK4,
    Anderson,
    Broyden,
    Dopri5,
    Implicit,
    Kvaerno5,
    Neumann,
    Newton,
    Picard,
    Status,
    Tsit5,
    Unrolled,
    fixed_point,
)
from deqzoo.implicit.fixed_point_solvers import blocks, judge
from deqzoo.nn import DEQ
from deqzoo.nn.layer import compiles_steps
from tests.implicit.test_compile_whole import F64, WAITS, Cell, gradient_by_dense_solves, recorded_part

SOLVERS = [
    Picard(tol=1e-11, max_steps=30, check_every=4, compile=True),
    Anderson(tol=1e-11, max_steps=30, check_every=4, compile=True),
    Broyden(tol=1e-11, max_steps=30, check_every=4, compile=True),
]


@pytest.fixture
def graphs(monkeypatch):
    """The graphs that are compiled in a test."""
    return recorded_part(monkeypatch, blocks.advance, blocks, "_compiled_advance")


@pytest.fixture
def reads(monkeypatch):
    """The times that the host reads values of the device in a solve."""
    found = []
    for name in ("host_counts", "host_flags"):
        read = getattr(judge, name)
        monkeypatch.setattr(judge, name, lambda *masks, read=read: found.append(len(masks)) or read(*masks))
    return found


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: type(solver).__name__)
def test_a_block_is_one_graph_with_one_read_after_it(solver, graphs, reads):
    cell, x = Cell(), torch.randn(4, 3, dtype=F64, requires_grad=True)
    deq = DEQ(cell, solver=solver, adjoint=Implicit(Neumann(k=14)))
    z = deq(x)
    found = torch.autograd.grad(z.square().sum(), [x, *cell.parameters()])
    torch.testing.assert_close(found, gradient_by_dense_solves(cell, x), rtol=1e-9, atol=1e-11)
    assert [kind for kind, _ in graphs] == ["forward"]  # the same for each block
    called = [str(node.target) for node in graphs[0][1].graph.nodes if node.op == "call_function"]
    assert not [name for name in called if any(wait in name for wait in WAITS)]
    assert sum("tanh.default" in name for name in called) == solver.check_every
    assert deq.solution.status.tolist() == [Status.CONVERGED] * 4
    assert deq.solution.nfe % solver.check_every == 1
    assert len(reads) == 1 + deq.solution.nfe // solver.check_every


def test_another_batch_size_compiles_anew_at_most_twice(graphs):
    deq = DEQ(Cell(), solver=SOLVERS[0])
    for size in (8, 8, 5, 3, 7):
        x = torch.randn(size, 3, dtype=F64)
        with torch.no_grad():
            torch.testing.assert_close(deq.cell(deq(x), x), deq(x), rtol=0, atol=1e-10)
    assert len(graphs) <= 3


@pytest.mark.parametrize("stop", ["rel", "abs"])
def test_a_budget_and_a_system_that_is_not_finite(stop, graphs):
    solver = Picard(tol=1e-12, max_steps=6, check_every=4, stop=stop, compile=True)
    x = torch.tensor([[0.1], [math.nan], [0.2], [0.0]], dtype=F64)
    rate = torch.tensor([[0.9], [0.9], [0.001], [0.9]], dtype=F64)
    z, found = fixed_point(
        lambda z, x: rate * z + x, x * 0, x, solver=solver, batch_dims=1, return_solution=True, on_failure="ignore"
    )
    assert found.status.tolist() == [Status.MAX_STEPS, Status.DIVERGED, Status.CONVERGED, Status.CONVERGED]
    assert found.nfe == 7
    assert found.steps.tolist()[2] == 4  # it is looked at after a block
    assert len(graphs) == 2  # blocks of four and of two
    expected = x[2] / (1 - rate[2])
    torch.testing.assert_close(z[2], expected)
    assert z[1].isnan().all()
    torch.testing.assert_close(found.value[0], x[0] * (1 - 0.9**6) / 0.1)


def test_as_without_compilation_in_transforms_with_keep_and_on_the_tape(graphs):
    a = torch.tensor([0.3, 0.6], dtype=F64)
    compiled = SOLVERS[0]
    plain = dataclasses.replace(compiled, compile=False)

    def solve(a, solver, **options):
        return fixed_point(lambda z, a: torch.cos(a * z), torch.zeros_like(a), a, solver=solver, **options)

    for transform in (torch.func.vmap, torch.func.grad):
        values = a if transform is torch.func.vmap else a[0]
        expected, found = (transform(lambda a, s=s: solve(a, s))(values) for s in (plain, compiled))
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    kept = dataclasses.replace(compiled, keep=(1, 2))
    assert len(solve(a, kept, return_solution=True)[1].kept) == 2
    assert solve(a.requires_grad_(), compiled, adjoint=Unrolled()).grad_fn is not None
    assert not graphs


def test_training_in_blocks(graphs):
    layer, x = DEQ(Cell(), solver=Picard(tol=1e-10)), torch.randn(4, 3, dtype=F64)
    expected = layer(x)
    layer.compile_training(backend="eager")
    torch.testing.assert_close(layer(x), expected, rtol=1e-8, atol=1e-9)
    assert len(graphs) == 1
    assert layer.solution.nfe % 6 == 1
    layer.eval()(x)
    with torch.no_grad():
        layer.train()(x)
    assert len(graphs) == 1  # in training alone
    layer.solver = Picard(stop="never", max_steps=9)
    torch.testing.assert_close(layer(x), expected, rtol=1e-7, atol=1e-8)


def test_a_cell_whose_masks_cannot_be_had_is_not_compiled():
    cell = Cell()
    cell.attention = nn.MultiheadAttention(5, 1, dropout=0.5)
    layer = DEQ(cell, solver=Picard(tol=1e-10))
    layer.compile_training(backend="eager")
    assert layer.chosen_solver is layer.solver
    layer.cell.attention.dropout = 0.0
    assert layer.chosen_solver == Picard(tol=1e-10, compile=True)
    assert copy.deepcopy(layer).chosen_solver == layer.solver


class Noisy(Cell):
    """It draws by a function, which no look at its modules tells."""

    def forward(self, z, x):
        return super().forward(F.dropout(z, 0.5), x)


@pytest.mark.parametrize("cell", [lambda: Cell(dropout=0.5), Noisy], ids=["layer", "function"])
def test_masks_are_the_same_in_all_blocks(cell):
    torch._dynamo.reset()
    layer, x, found = DEQ(cell(), solver=Picard(tol=1e-10)), torch.randn(4, 3, dtype=F64, requires_grad=True), []
    for compiled in (False, True):
        if compiled:
            layer.compile_training(backend="aot_eager")
        torch.manual_seed(1)
        z = layer(x)
        found.append((z, *torch.autograd.grad(z.square().sum(), [x, *layer.parameters()])))
        assert layer.chosen_solver.compile == compiled
    torch.testing.assert_close(found[1], found[0], rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(
    ("solver", "expected"),
    [
        *((Tsit5(), True), (Dopri5(rtol=1e-3), True), (Kvaerno5(), False), (RK4(), False)),
        *((Picard(), True), (Picard(stop="never"), False), (Newton(), False)),
    ],
)
def test_solvers_that_compile_their_steps(solver, expected):
    assert compiles_steps(solver) == expected


@pytest.mark.slow
@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: type(solver).__name__)
def test_by_the_default_compiler(solver):
    torch._dynamo.reset()
    torch.manual_seed(0)
    cell, x = Cell(), torch.randn(4, 3, dtype=F64, requires_grad=True)
    z = DEQ(cell, solver=solver, adjoint=Implicit(Neumann(k=14)))(x)
    found = torch.autograd.grad(z.square().sum(), [x, *cell.parameters()])
    torch.testing.assert_close(found, gradient_by_dense_solves(cell, x), rtol=1e-9, atol=1e-11)
