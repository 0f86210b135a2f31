"""Products with Jacobians and their transposes, transposed preconditioners, dense forms."""

import numpy as np
import pytest
import torch

from deqzoo.implicit import GMRES, ImplicitFunction, LinearOperator
from deqzoo.implicit.operator import ROWS, jacobian, pullback, transposed
from tests.implicit.solvers.helpers import F64, Recorded, assert_close, randn


def coupled(z):
    """A map of each row whose Jacobian is neither symmetric nor constant."""
    return torch.sin(z) * z.roll(1, 1) + z**2


def dense_jacobian(f, z):
    """The Jacobian of each row, (systems, n, n)."""
    return torch.stack([torch.func.jacrev(lambda r: f(r.unsqueeze(0))[0])(row) for row in z])


@pytest.mark.parametrize("systems", [1, 3])
def test_a_jacobian_as_products(systems):
    z, v = randn(systems, 4, seed=1), randn(systems, 4, seed=2)
    operator = jacobian(coupled, z)
    dense = dense_jacobian(coupled, z)
    assert_close(operator.mv(v), (dense @ v.unsqueeze(2)).squeeze(2), 1e-13)
    assert_close(operator.rmv(v), (dense.mT @ v.unsqueeze(2)).squeeze(2), 1e-13)
    assert_close(operator.T.mv(v), operator.rmv(v), 1e-15)
    assert_close(operator.T.T.mv(v), operator.mv(v), 1e-15)
    assert_close(operator.to_dense(z), dense, 1e-13)
    assert_close(operator.T.to_dense(z), dense.mT, 1e-13)
    assert_close(operator.damped(0.5).T.to_dense(z), dense.mT + 0.5 * torch.eye(4, dtype=F64), 1e-13)


def test_a_jacobian_is_written_out_by_one_batch_of_products():
    """However many unknowns, also where there are more than fit into one batch; f is evaluated once."""
    f = Recorded(coupled)
    z = randn(2, 5, seed=1)
    calls = []
    operator = jacobian(lambda x: Counting.apply(f(x), calls), z)
    assert_close(operator.to_dense(z), dense_jacobian(coupled, z), 1e-13)
    assert f.calls == 1
    assert len(calls) == 1
    wide = randn(1, ROWS + 3, seed=2)
    assert_close(jacobian(coupled, wide).to_dense(wide), dense_jacobian(coupled, wide), 1e-13)


class Counting(torch.autograd.Function):
    """The identity; notes each pass through its backward, of one vector or of a batch."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, calls):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.calls = inputs[1]

    @staticmethod
    def backward(ctx, g):
        ctx.calls.append(g.shape)
        return g, None


class Opaque(torch.autograd.Function):
    """sin, by way of NumPy: its backward cannot be vmapped."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.from_numpy(np.sin(x.detach().numpy()))

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return torch.from_numpy(g.numpy() * np.cos(x.detach().numpy()))


def test_a_backward_that_cannot_be_vmapped_is_written_out_column_by_column():
    z = randn(2, 4, seed=1)
    operator = jacobian(lambda x: Opaque.apply(x) * x.roll(1, 1) + x**2, z)
    assert_close(operator.to_dense(z), dense_jacobian(coupled, z), 1e-13)


def test_an_implicit_function_within_is_written_out_too():
    """Its backward is a linear solve, which the batch of products must not confuse."""
    inner = ImplicitFunction(  # y^3 + y = x
        solve=lambda x: _cubic(x), conditions=lambda y, x: y**3 + y - x, linear_solver=GMRES(), batch_dims=1
    )
    z = randn(3, 4, seed=1)
    dense = jacobian(lambda x: inner(coupled(x)), z).to_dense(z)
    slope = 1 / (3 * _cubic(coupled(z)) ** 2 + 1)
    assert_close(dense, slope.unsqueeze(2) * dense_jacobian(coupled, z), 1e-9)


def _cubic(x):
    y = torch.zeros_like(x)
    for _ in range(60):
        y = y - (y**3 + y - x) / (3 * y**2 + 1)
    return y


def test_products_work_where_no_tape_records():
    z, v = randn(2, 4, seed=1), randn(2, 4, seed=2)
    expected = jacobian(coupled, z)
    forward, backward = expected.mv(v), expected.rmv(v)
    with torch.no_grad():
        operator = jacobian(coupled, z)
        assert_close(operator.mv(v), forward, 1e-15)
        assert_close(operator.rmv(v), backward, 1e-15)
        assert not operator.mv(v).requires_grad
    with torch.inference_mode():
        operator = jacobian(coupled, z.clone())
        assert_close(operator.mv(v.clone()), forward, 1e-15)
        assert_close(operator.rmv(v.clone()), backward, 1e-15)


def test_the_function_is_evaluated_once_for_all_products():
    f = Recorded(coupled)
    operator = jacobian(f, randn(2, 4, seed=1))
    for seed in range(3):
        operator.mv(randn(2, 4, seed=seed))
        operator.rmv(randn(2, 4, seed=seed))
    assert f.calls == 1


def test_a_function_that_does_not_read_its_point_has_a_jacobian_of_zero():
    constant = randn(2, 3)
    operator = jacobian(lambda z: constant, randn(2, 3, seed=1))
    v = randn(2, 3, seed=2)
    assert torch.equal(operator.rmv(v), torch.zeros_like(v))
    assert torch.equal(operator.mv(v), torch.zeros_like(v))


def test_a_tagged_jacobian_uses_the_pullback_for_both_products():
    """The gradient of a scalar has a symmetric Jacobian."""
    z, v = randn(2, 4, seed=1), randn(2, 4, seed=2)
    plain = jacobian(lambda z: torch.sinh(z) + z.sum(dim=1, keepdim=True), z)
    tagged = jacobian(lambda z: torch.sinh(z) + z.sum(dim=1, keepdim=True), z, tags=["symmetric"])
    assert tagged.symmetric
    assert tagged.T is tagged
    assert_close(tagged.mv(v), plain.mv(v), 1e-13)


def test_products_are_linear_at_any_scale():
    operator = jacobian(coupled, randn(1, 4, seed=1))
    v = randn(1, 4, seed=2)
    for scale in (1e-200, 1e200):
        assert_close(operator.mv(scale * v) / scale, operator.mv(v), 1e-14)
        assert_close(operator.rmv(scale * v) / scale, operator.rmv(v), 1e-14)


def test_pullback_gives_the_value_and_the_transposed_product():
    a, b = randn(3, seed=1), randn(2, seed=2)
    value, vjp = pullback(lambda t: (t[0].sum() * t[1], t[0] ** 2), (a, b))
    assert_close(value[0], a.sum() * b, 1e-15)
    u, w = randn(2, seed=3), randn(3, seed=4)
    to_a, to_b = vjp((u, w))
    assert_close(to_a, (u @ b) + 2 * a * w, 1e-14)
    assert_close(to_b, a.sum() * u, 1e-14)


def test_pullback_counts_only_the_path_through_its_argument():
    """The function also reads a tensor that depends on the point: that path is a constant here."""
    a = torch.tensor([2.0], dtype=F64, requires_grad=True)
    captured = a**2
    _, vjp = pullback(lambda t: (t[0] * captured,), (a,))
    assert_close(vjp((torch.ones(1, dtype=F64),))[0], torch.tensor([4.0]), 1e-15)


def test_pullback_is_differentiable_again():
    a = torch.tensor([0.7], dtype=F64, requires_grad=True)
    _, vjp = pullback(lambda t: (torch.sin(t[0]),), (a,))
    (slope,) = vjp((torch.ones(1, dtype=F64),))
    (second,) = torch.autograd.grad(slope, a)
    assert_close(second, -torch.sin(a), 1e-14)


def test_transposed_of_a_linear_map():
    matrix, u = randn(4, 4, seed=1), randn(2, 4, seed=2)
    assert_close(transposed(lambda v: v @ matrix.T, u)(u), u @ matrix, 1e-14)


@pytest.mark.parametrize("shape", [(3, 3), (2, 3, 3)])
def test_from_matrix(shape):
    matrix, v = randn(*shape, seed=1), randn(2, 3, seed=2)
    operator = LinearOperator.from_matrix(matrix)
    expected = (matrix.expand(2, 3, 3) @ v.unsqueeze(2)).squeeze(2)
    assert_close(operator.mv(v), expected, 1e-14)
    assert_close(operator.to_dense(v), matrix.expand(2, 3, 3), 1e-15)
    assert_close(operator.T.to_dense(v), matrix.expand(2, 3, 3).mT, 1e-15)


def test_the_preconditioner_is_transposed_along():
    matrix, inverse, v = randn(3, 3, seed=1), randn(3, 3, seed=2), randn(2, 3, seed=3)
    operator = LinearOperator(lambda v: v @ matrix.T, lambda v: v @ matrix, preconditioner=lambda v: v @ inverse.T)
    assert_close(operator.T.preconditioner(v), v @ inverse, 1e-14)
    assert_close(operator.T.T.preconditioner(v), v @ inverse.T, 1e-14)


def test_a_symmetric_operator_is_its_own_transpose():
    operator = LinearOperator.from_matrix(torch.eye(2), tags=["positive_definite"])
    assert operator.T is operator
    assert operator.symmetric


def test_errors_name_the_mend():
    with pytest.raises(ValueError, match=r"posdef.*valid: symmetric, positive_definite"):
        LinearOperator(lambda v: v, tags=("posdef",))
    with pytest.raises(ValueError, match="rmv="):
        _ = LinearOperator(lambda v: v).T


def test_an_operator_without_unknowns():
    empty = torch.zeros(2, 0)
    assert LinearOperator(lambda v: v).to_dense(empty).shape == (2, 0, 0)
