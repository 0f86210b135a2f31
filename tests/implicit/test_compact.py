"""Samples that are done are left out of the evaluations of f: the same answers, for the work that each sample needs."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deqzoo.implicit import Anderson, Broyden, Newton, NewtonKrylov, Picard, Status, Unrolled, fixed_point, root
from deqzoo.nn import DEQ

SOLVERS = [Picard(tol=1e-9, max_steps=400), Anderson(tol=1e-9, max_steps=100), Broyden(tol=1e-9, max_steps=100)]
each_solver = pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: type(solver).__name__)


def counted_rows(f):
    """`f`, with the rows that it has evaluated in `rows`."""

    def counted(z, *args):
        counted.rows += len(z)
        return f(z, *args)

    counted.rows = 0
    return counted


def mixed(count=48, size=12):
    """tanh maps whose rates reach from .05 to .95, one per sample: (f, x, rate)."""
    random = torch.Generator().manual_seed(0)
    q, _ = torch.linalg.qr(torch.randn(size, size, generator=random, dtype=torch.float64))
    x = torch.randn(count, size, generator=random, dtype=torch.float64)
    rate = torch.linspace(0.05, 0.95, count, dtype=torch.float64)[torch.randperm(count, generator=random)]
    return (lambda z, x, rate, q: torch.tanh(rate.unsqueeze(1) * (z @ q) + x)), x, rate, q


@each_solver
def test_work_is_that_of_each_sample_alone(solver):
    f, x, rate, q = mixed()
    counted = counted_rows(f)
    z, solution = fixed_point(
        counted, torch.zeros_like(x), x, rate, q, solver=solver, batch_dims=1, compact=True, return_solution=True
    )
    together, counted.rows = counted.rows, 0
    for i in range(len(x)):
        alone, own = fixed_point(
            counted, torch.zeros(1, x.shape[1]).double(), x[i : i + 1], rate[i : i + 1], q, solver=solver,
            batch_dims=1, return_solution=True,
        )  # fmt: skip
        assert own.steps.item() == solution.steps[i].item()
        assert torch.allclose(alone[0], z[i], rtol=1e-7, atol=1e-10)
    assert together <= 1.1 * counted.rows
    _, full = fixed_point(f, torch.zeros_like(x), x, rate, q, solver=solver, batch_dims=1, return_solution=True)
    assert together < 0.75 * full.nfe * len(x)  # what the batch costs without


@each_solver
def test_gradients_and_reports_are_the_same(solver):
    f, x, rate, q = mixed(24)
    found = []
    for compact in (False, True):
        inputs = [t.clone().requires_grad_() for t in (x[:24], rate, q)]
        z, solution = fixed_point(
            f, torch.zeros_like(x), *inputs, solver=solver, batch_dims=1, compact=compact, return_solution=True
        )
        z.square().sum().backward()
        found.append(([t.grad for t in inputs], solution))
    for a, b in zip(found[0][0], found[1][0], strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-8)
    assert torch.equal(found[0][1].status, found[1][1].status)
    assert torch.equal(found[0][1].steps, found[1][1].steps)


def test_unrolled_gradient():
    f, x, rate, q = mixed(16)
    grads = []
    for compact in (False, True):
        w = q.clone().requires_grad_()
        z = fixed_point(
            f, torch.zeros_like(x), x, rate, w, solver=SOLVERS[0], adjoint=Unrolled(), batch_dims=1, compact=compact
        )
        grads.append(torch.autograd.grad(z.sum(), w)[0])
    assert torch.allclose(grads[0], grads[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("solver", [Newton(), NewtonKrylov()], ids=lambda solver: type(solver).__name__)
def test_roots(solver):
    a = torch.logspace(-3, 6, 20, dtype=torch.float64).unsqueeze(1).requires_grad_()

    def f(y, a):
        return y**3 + y - a

    y = root(f, torch.ones_like(a), a, solver=solver, batch_dims=1, compact=True)
    assert f(y, a).abs().max() < 1e-6
    (grad,) = torch.autograd.grad(y.sum(), a)
    assert torch.allclose(grad, 1 / (3 * y**2 + 1))


def test_a_sample_that_diverges_is_left_out_and_harms_no_other():
    def f(z, a):
        assert torch.isfinite(z).all()
        return a * z.square() + 0.5

    a = torch.tensor([[0.1], [1e20], [0.2], [torch.nan], [0.3]])
    z, solution = fixed_point(
        f, torch.zeros(5, 1), a, solver=Picard(), batch_dims=1, compact=True, on_failure="ignore", return_solution=True
    )
    assert solution.status.tolist() == [Status.CONVERGED, Status.DIVERGED] * 2 + [Status.CONVERGED]
    assert torch.allclose(z[::2], (1 - torch.sqrt(1 - 2 * a[::2])) / (2 * a[::2]), atol=1e-5)


@given(st.integers(0, 9), st.booleans())
def test_trees_of_several_shapes_and_layouts(count, channels_last):
    random = torch.Generator().manual_seed(count)
    x = torch.randn(count, 4, 3, 3, generator=random)
    x = x.to(memory_format=torch.channels_last) if channels_last else x
    rate = torch.rand(count, generator=random) * 0.9

    def f(z, x, rate):
        a, b = z["a"], z["b"]
        return {"a": torch.cos(rate.view(-1, 1, 1, 1) * a + x), "b": 0.5 * rate * b + a.mean(dim=(1, 2, 3))}

    start = {"a": torch.zeros_like(x), "b": torch.zeros(count)}
    one, two = (fixed_point(f, start, x, rate, batch_dims=1, compact=compact) for compact in (False, True))
    for name in start:
        assert torch.allclose(one[name], two[name], atol=1e-4)
        assert one[name].shape == two[name].shape == start[name].shape


def test_under_vmap_it_changes_nothing():
    f, x, rate, q = mixed(8)

    def solve(rate, compact):
        return fixed_point(f, torch.zeros_like(x), x, rate, q, batch_dims=1, compact=compact)

    rates = torch.stack([rate, rate / 2])
    one, two = (torch.vmap(lambda rate, c=compact: solve(rate, c))(rates) for compact in (False, True))
    assert torch.equal(one, two)


@pytest.mark.parametrize("solver", [Newton(tol=1e-10), NewtonKrylov(tol=1e-10)], ids=lambda s: type(s).__name__)
def test_under_vmap_it_changes_nothing_for_roots(solver):
    a = torch.tensor([[[1.0], [8.0], [1e6]], [[2.0], [1e-3], [27.0]]], dtype=torch.float64)
    solve = lambda a, **how: root(lambda y, a: y**3 - a, torch.ones_like(a), a, solver=solver, batch_dims=1, **how)  # noqa: E731
    found, expected = (torch.func.vmap(lambda a, c=c: solve(a, compact=c))(a) for c in (True, False))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    torch.testing.assert_close(found, a ** (1 / 3))


def test_wrong_use_says_what_is_needed():
    with pytest.raises(ValueError, match="needs batch_dims=1"):
        fixed_point(torch.cos, torch.zeros(3), compact=True)
    with pytest.raises(ValueError, match="solvers of deqzoo"):
        fixed_point(torch.cos, torch.zeros(3), solver=lambda f, z: f(z), batch_dims=1, compact=True)


def test_layer_leaves_samples_out_in_eval_mode_alone():
    cell = counted_rows(lambda z, x: torch.tanh(x[:, :1] * z + x))
    x = torch.linspace(0.01, 0.9, 32).unsqueeze(1).expand(-1, 3).contiguous()
    deq = DEQ(cell, solver=Anderson(tol=1e-5, max_steps=50), compact=True)
    with torch.no_grad():
        in_training = deq(x)
        assert cell.rows == deq.solution.nfe * 32
        deq.eval()
        cell.rows = 0
        assert torch.allclose(deq(x), in_training, atol=1e-4)
    assert cell.rows < 0.9 * deq.solution.nfe * 32
