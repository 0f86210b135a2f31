"""The faults of torchdeq (as of 0.1.0), each a test that passes here."""

import copy
import math

import pytest
import torch
from torch import nn

from deqzoo.implicit import (
    GMRES,
    Anderson,
    Broyden,
    Dense,
    Implicit,
    Neumann,
    OneStep,
    Phantom,
    Picard,
    Status,
    Unrolled,
    fixed_point,
    make_adjoint,
    make_solver,
    spectral_radius,
)
from deqzoo.nn import DEQ
from tests.implicit.solvers.helpers import (
    F64,
    Recorded,
    affine,
    affine_answer,
    assert_close,
    matrix_of_norm,
    orthogonal,
    randn,
    symmetric_matrix,
    true_residual,
)


class Cell(nn.Module):
    """tanh(W z + x), a contraction, with dropout on request."""

    def __init__(self, n=6, dropout=0.0, norm=0.7):
        super().__init__()
        self.linear = nn.Linear(n, n)
        self.dropout = nn.Dropout(dropout)
        with torch.no_grad():
            self.linear.weight.copy_(matrix_of_norm(n, norm, seed=5))

    def forward(self, z, x):
        return torch.tanh(self.dropout(self.linear(z)) + x)


def exact(cell, **options):
    """A DEQ solved, forward and backward, to the digits of its dtype."""
    return DEQ(cell, solver=Anderson(max_steps=300), adjoint=Implicit(GMRES()), on_failure="raise", **options)


def unrolled(cell, x, steps=300):
    z = torch.zeros_like(x)
    for _ in range(steps):
        z = cell(z, x)
    return z


def test_torchdeq_double_backward_is_silently_wrong():
    """A Hessian-vector product in the input and the weights, against the unrolled iteration."""
    cell, x, v = Cell().double(), randn(3, 6, seed=1).requires_grad_(), randn(3, 6, seed=2)
    products = []
    for solve in (exact(cell), lambda x: unrolled(cell, x)):
        loss = (solve(x) ** 3).sum()
        (slope,) = torch.autograd.grad(loss, x, create_graph=True)
        products.append(torch.autograd.grad((slope * v).sum(), [x, cell.linear.weight]))
    for ours, reference in zip(*products, strict=True):
        assert reference.norm() > 0.01
        assert_close(ours, reference, 1e-9)


def test_torchdeq_torch_func_transforms_raise():
    x, v = randn(6, seed=1), randn(6, seed=2)
    matrix = matrix_of_norm(6, 0.7)

    def loss(x):
        return fixed_point(lambda z, x: torch.tanh(matrix @ z + x), torch.zeros_like(x), x).pow(3).sum()

    def reference(x):
        z = torch.zeros_like(x)
        for _ in range(300):
            z = torch.tanh(matrix @ z + x)
        return z.pow(3).sum()

    assert_close(torch.func.grad(loss)(x), torch.func.grad(reference)(x), 1e-10)
    assert_close(torch.func.jvp(loss, (x,), (v,))[1], torch.func.jvp(reference, (x,), (v,))[1], 1e-10)
    batch = torch.stack([x, v])
    assert_close(
        torch.func.vmap(torch.func.grad(loss))(batch),
        torch.func.vmap(torch.func.grad(reference))(batch),
        1e-10,
    )
    assert_close(torch.func.hessian(loss)(x), torch.func.hessian(reference)(x), 1e-9)


@pytest.mark.parametrize("gradient", [Implicit(GMRES(tol=1e-2)), Phantom(), OneStep(), Unrolled()], ids=repr)
def test_torchdeq_backward_under_bfloat16_autocast_crashes(gradient):
    cell, x = Cell(), randn(4, 6, seed=1, dtype=torch.float32).requires_grad_()
    solver = Picard(tol=1e-2) if isinstance(gradient, Unrolled) else Anderson(tol=1e-2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = DEQ(cell, solver=solver, adjoint=gradient)(x)
    z.float().pow(2).sum().backward()  # outside of autocast, as trainers do
    exact(cell)(x).pow(2).sum().backward(inputs=[cell.linear.bias])
    assert x.grad.dtype == cell.linear.weight.grad.dtype == torch.float32
    if not isinstance(gradient, Phantom | OneStep):
        reference = torch.autograd.grad(exact(cell)(x).pow(2).sum(), x)[0]
        assert_close(x.grad, reference, 0.05)


def test_torchdeq_spectral_radius_fails_under_inference_mode():
    cell = Cell().eval()
    deq = DEQ(cell, solver=Anderson(tol=1e-6))
    with torch.inference_mode():
        x = torch.ones(2, 6)
        radius = deq.spectral_radius(x, deq(x))
    assert radius.shape == (2,)
    assert (radius > 0.05).all()
    assert (radius < 0.7 + 1e-4).all()


@pytest.mark.parametrize(
    "gradient", [Implicit(), Phantom(steps=60), Unrolled()], ids=["implicit", "phantom", "unrolled"]
)
def test_torchdeq_two_forwards_before_one_backward_hang(gradient):
    cell = Cell().double()
    solver = Picard(max_steps=300)
    deq = DEQ(cell, solver=solver, adjoint=gradient)
    a, b = randn(3, 6, seed=1).requires_grad_(), randn(2, 6, seed=2).requires_grad_()
    (deq(a).pow(2).sum() * deq(b).pow(3).sum()).backward()
    ours = [a.grad, b.grad, cell.linear.weight.grad]
    reference = torch.autograd.grad(
        unrolled(cell, a).pow(2).sum() * unrolled(cell, b).pow(3).sum(), [a, b, cell.linear.weight]
    )
    for x, y in zip(ours, reference, strict=True):
        assert_close(x, y, 1e-7)


@pytest.mark.parametrize("solver", [Picard, Anderson, Broyden], ids=["picard", "anderson", "broyden"])
@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_torchdeq_an_infinite_iterate_turns_the_best_one_into_nan(solver, bad):
    """The second sample's third value is not finite; what is returned is its best iterate before."""
    f = Recorded(lambda z: 0.5 * torch.cos(z) + (torch.tensor([[0.0], [bad]]) if f.calls == 3 else 0.0))
    solution = solver(tol=1e-12, max_steps=20)(f, torch.ones(2, 3, dtype=F64), batch_dims=1)
    assert solution.status.tolist() == [Status.CONVERGED, Status.DIVERGED]
    assert torch.isfinite(solution.value).all()
    assert solution.residual[1] < 0.7
    assert any(torch.equal(solution.value[1], z[1]) for z in f.points[:2])


@pytest.mark.parametrize("memory", [5, 10])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_torchdeq_broyden_with_a_short_memory_gives_nan(memory, dtype):
    matrix, x = matrix_of_norm(128, 0.95, dtype=dtype), randn(8, 128, seed=1, dtype=dtype)
    solution = Broyden(memory=memory, tol=1e-5, trace=True)(affine(matrix), torch.zeros_like(x), x, batch_dims=1)
    assert solution.nfe > memory + 1
    assert torch.isfinite(solution.trace).all()
    assert solution.converged.all()
    assert_close(solution.value, affine_answer(matrix, x), 1e-3)


@pytest.mark.parametrize("solver", [Picard, Anderson, Broyden], ids=["picard", "anderson", "broyden"])
def test_torchdeq_a_batch_of_one_stops_before_its_tolerance(solver):
    """Its stagnation test reduces over the batch; ours is each sample's own."""
    matrix, x = symmetric_matrix(torch.linspace(-0.9, 0.9, 64, dtype=F64)), randn(16, 64, seed=1)
    for i in range(0, 16, 5):
        one = x[i : i + 1]
        solution = solver(tol=1e-3, max_steps=300)(affine(matrix), torch.zeros_like(one), one, batch_dims=1)
        assert solution.converged.all()
        assert (true_residual(affine(matrix), solution.value, one) <= 1e-3).all()


def test_torchdeq_ignores_unknown_options():
    with pytest.raises(ValueError, match=r"tolerance.*Valid:.*tol.*max_steps"):
        make_solver("anderson", tolerance=1e-3)
    with pytest.raises(ValueError, match=r"andersen.*did you mean 'anderson'.*picard"):
        make_solver("andersen")
    with pytest.raises(ValueError, match=r"taps.*Valid: steps, damping"):
        make_adjoint("phantom", taps=3)
    with pytest.raises(ValueError, match="stop"):
        make_solver("broyden", stop="relative")
    with pytest.raises(TypeError):
        Anderson(stop_mode="rel")
    with pytest.raises(TypeError):
        fixed_point(torch.cos, torch.zeros(1), stop_mode="rel")
    with pytest.raises(TypeError):
        DEQ(Cell(), f_solver="anderson")


@pytest.mark.parametrize("solver", [Picard, Anderson, Broyden], ids=["picard", "anderson", "broyden"])
def test_torchdeq_ignores_the_relative_stop(solver):
    matrix, x = matrix_of_norm(32, 0.9), 1e5 * randn(4, 32, seed=1)
    arguments = (affine(matrix), torch.zeros_like(x), x)
    relative = solver(tol=1e-3, stop="rel")(*arguments, batch_dims=1)
    absolute = solver(tol=1e-3, stop="abs", max_steps=400)(*arguments, batch_dims=1)
    assert relative.nfe < absolute.nfe
    assert (true_residual(affine(matrix), relative.value, x) <= 1e-3).all()
    assert (true_residual(affine(matrix), absolute.value, x, stop="abs") <= 1e-3).all()


@pytest.mark.parametrize("solver", [Picard, Anderson, Broyden], ids=["picard", "anderson", "broyden"])
@pytest.mark.parametrize("max_steps", [1, 2])
def test_torchdeq_one_or_two_steps_return_the_start(solver, max_steps):
    x = randn(2, 4, seed=1)
    solution = solver(max_steps=max_steps)(lambda z, x: 0.3 * torch.cos(z) + x, torch.zeros_like(x), x, batch_dims=1)
    assert not torch.equal(solution.value, torch.zeros_like(x))
    assert (solution.residual < 0.2).all()


@pytest.mark.parametrize("gradient", [Implicit(), Phantom(), OneStep(), Unrolled()], ids=repr)
def test_torchdeq_crashes_on_an_empty_batch(gradient):
    cell = Cell()
    deq = DEQ(cell, solver=Picard(), adjoint=gradient)
    x = torch.zeros(0, 6, requires_grad=True)
    z = deq(x)
    z.sum().backward()
    assert z.shape == x.grad.shape == (0, 6)
    assert deq.solution.converged.shape == (0,)
    assert cell.linear.weight.grad is None or not cell.linear.weight.grad.any()


def test_torchdeq_deepcopy_fails_after_weight_norm():
    cell = Cell()
    nn.utils.parametrizations.weight_norm(cell.linear)
    deq = exact(cell)
    x = randn(2, 6, seed=1, dtype=torch.float32)
    z = deq(x)
    z.sum().backward()
    twin = copy.deepcopy(deq)
    again = twin(x)
    assert torch.equal(again, z)
    again.sum().backward()
    for a, b in zip(deq.parameters(), twin.parameters(), strict=True):
        assert a is not b
        assert torch.equal(a.grad, b.grad)


@pytest.mark.parametrize("gradient", [Implicit(), Phantom(), OneStep(), Unrolled()], ids=repr)
def test_torchdeq_dropout_breaks_on_a_smaller_last_batch(gradient):
    deq = DEQ(Cell(dropout=0.4), solver=Picard(max_steps=100), adjoint=gradient)
    for size in (4, 4, 3, 5):
        x = randn(size, 6, seed=size, dtype=torch.float32).requires_grad_()
        z = deq(x)
        z.sum().backward()
        assert z.shape == x.grad.shape == (size, 6)
        assert deq.solution.converged.all(), "the mask must be one and the same within a solve"


@pytest.mark.parametrize("radius", [0.9, 0.33])
def test_torchdeq_reports_a_wrong_spectral_radius_for_complex_eigenvalues(radius):
    """A scaled rotation; torchdeq finds .33 for .9."""
    rotation = radius * torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    assert abs(spectral_radius(lambda z: rotation @ z, torch.ones(2)).item() - radius) < 1e-5
    larger = radius * orthogonal(30)
    found = spectral_radius(lambda z: z @ larger, torch.zeros(2, 30, dtype=F64), batch_dims=1, steps=30)
    assert torch.allclose(found, torch.full((2,), radius, dtype=F64), rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_torchdeq_anderson_is_worse_than_plain_iteration_at_tight_tolerances(dtype):
    """Its absolute ridge swamps the Gram matrix: 315 evaluations against 143."""
    matrix = symmetric_matrix(torch.linspace(-0.9, 0.9, 128, dtype=F64)).to(dtype)
    x = randn(16, 128, seed=1, dtype=dtype)
    for tol in (1e-3, 1e-5, None):
        arguments = (affine(matrix), torch.zeros_like(x), x)
        anderson = Anderson(tol=tol, max_steps=1000)(*arguments, batch_dims=1)
        picard = Picard(tol=tol, max_steps=1000)(*arguments, batch_dims=1)
        assert anderson.converged.all()
        assert anderson.nfe < 0.6 * picard.nfe


@pytest.mark.parametrize("linear_solver", [GMRES(), Neumann(k=80), Dense()], ids=["gmres", "neumann", "dense"])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_torchdeq_the_gradient_error_depends_on_the_scale_of_the_loss(linear_solver, dtype):
    """Its backward stops at an absolute tolerance: a loss of 1e-6 has an error of 6e-3."""
    cell = Cell().to(dtype)
    x = randn(3, 6, seed=1, dtype=dtype).requires_grad_()
    reference = torch.autograd.grad((unrolled(copy.deepcopy(cell).double(), x.double())).pow(2).sum(), x)[0]
    deq = DEQ(cell, solver=Anderson(), adjoint=Implicit(linear_solver))
    z = deq(x)
    for scale in (1e-30, 1e-6, 1.0, 1e6, 1e30):
        (grad,) = torch.autograd.grad(z, x, 2 * z.detach() * scale, retain_graph=True)
        assert_close(grad.double() / scale, reference, 1e-4 if dtype == torch.float32 else 1e-10)


def test_torchdeq_gives_no_gradient_in_eval_mode():
    cell, x = Cell().double(), randn(2, 6, seed=1).requires_grad_()
    exact(cell).eval()(x).sum().backward()
    assert_close(x.grad, torch.autograd.grad(unrolled(cell, x).sum(), x)[0], 1e-9)


def test_torchdeq_allocates_memory_for_steps_that_are_not_taken():
    """A limit of ten million steps costs nothing; the storage would be 5 GB."""
    x = randn(8, 8, seed=1)
    solution = Broyden(max_steps=10_000_000)(lambda z, x: 0.5 * torch.cos(z) + x, torch.zeros_like(x), x, batch_dims=1)
    assert solution.converged.all()
