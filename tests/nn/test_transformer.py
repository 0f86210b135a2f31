"""The transformer cell: its attention against a plain loop, its causality, its gradients."""

import math

import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from deqzoo.implicit import GMRES, Anderson, Implicit, Picard
from deqzoo.nn import DEQ, TransformerCell
from deqzoo.nn.transformer import CausalSelfAttention, rotate, rotation
from tests.implicit.solvers.helpers import F64, assert_close, randn
from tests.nn.layers import SHARP, gradients, unrolled

T, WIDTH = 6, 8


def cell_of(**options):
    """A contraction near its fixed points: branches that are small beside the skip connections."""
    cell = TransformerCell(WIDTH, heads=2, **options).to(F64)
    with torch.no_grad():
        cell.attention.out.weight.mul_(0.3)
        cell.down.weight.mul_(0.3)
    return cell


def by_hand(attention, z):
    """The attention of one sequence, (T, width), position by position."""
    size = z.shape[1] // attention.heads
    q = (z @ attention.query.weight.T).reshape(len(z), attention.heads, size)
    k, v = (z @ attention.key_value.weight.T).reshape(len(z), attention.heads, 2, size).unbind(2)
    result = torch.zeros(len(z), attention.heads, size, dtype=z.dtype)
    for h in range(attention.heads):
        for t in range(len(z)):
            # The zero key has the score 0, and the zero value adds nothing.
            scores = torch.stack([turned(q[t, h], t) @ turned(k[s, h], s + 1) for s in range(t)]) if t else z[:0, 0]
            weights = torch.cat([(scores / math.sqrt(size)), z.new_zeros(1)]).softmax(0)
            result[t, h] = weights[:-1] @ v[:t, h]
    return result.reshape(len(z), -1) @ attention.out.weight.T


def turned(x, t):
    pairs = x.reshape(-1, 2)
    angles = t * 10_000.0 ** -(torch.arange(0, len(x), 2, dtype=x.dtype) / len(x))
    cos, sin = angles.cos(), angles.sin()
    return torch.stack([pairs[:, 0] * cos - pairs[:, 1] * sin, pairs[:, 0] * sin + pairs[:, 1] * cos], 1).flatten()


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_attention_is_the_plain_loop(heads):
    attention = CausalSelfAttention(WIDTH, heads).to(F64)
    z = randn(3, T, WIDTH, seed=1)
    expected = torch.stack([by_hand(attention, sequence) for sequence in z])
    assert_close(attention(z), expected, 1e-12)


def test_rotary_scores_depend_on_differences_of_positions_alone():
    q, k = randn(WIDTH, seed=1), randn(WIDTH, seed=2)
    turn = rotation(9, WIDTH, q.device, F64)
    scores = rotate(q.expand(9, -1), turn) @ rotate(k.expand(9, -1), turn).T
    for difference in range(-8, 9):
        diagonal = scores.diagonal(difference)
        assert_close(diagonal, diagonal[:1].expand_as(diagonal), 1e-12)
    assert scores[:, 0].std() > 0.1


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="heads=3 must divide width=8 into even parts"):
        TransformerCell(8, heads=3)


@pytest.mark.parametrize("which", [0, 1], ids=["state", "input"])
def test_no_position_looks_ahead(which):
    inputs = randn(1, T, WIDTH, seed=1), randn(1, T, WIDTH, seed=2)
    jacobian = torch.autograd.functional.jacobian(cell_of(), inputs)[which].reshape(T, WIDTH, T, WIDTH)
    strength = jacobian.abs().amax((1, 3))  # of position t from position s
    assert not strength.triu(1).any()
    assert (strength.diagonal() > 0).tolist() == [which == 1] + [True] * (T - 1)  # the first state sees nothing
    assert (strength.tril(-1).sum(1)[1:] > 0).all() == (which == 0)  # the input reaches others by way of the state


def test_equilibrium_is_causal_within_the_tolerance_of_the_solve():
    """A sequence stops by the residual of all its positions, so a changed end changes its beginning: by less than

    2 tol ||f(z)|| / (1 - L), as both solutions lie within tol ||f(z)|| / (1 - L) of equilibria that agree there.
    """
    cell, t = cell_of(), 4
    x = randn(3, T, WIDTH, seed=1)
    other = x.clone()
    other[:, t:] += randn(3, T - t, WIDTH, seed=2)
    other[2] = x[2]  # a sequence of the batch that does not change at all
    for tol in (1e-2, 1e-5, 1e-10):
        deq = DEQ(cell, solver=Anderson(tol=tol, max_steps=200), on_failure="raise")
        z, changed = deq(x), deq(other)
        jacobian = torch.autograd.functional.jacobian(lambda z: cell(z, x[:1]), z[:1].detach())
        contraction = torch.linalg.matrix_norm(jacobian.reshape(T * WIDTH, T * WIDTH), 2).item()
        assert contraction < 0.9
        bound = 2 * tol * z.flatten(1).norm(dim=1).max() / (1 - contraction)
        assert (z - changed)[:, :t].flatten(1).norm(dim=1).max() <= bound
        assert (z - changed)[:2, t:].abs().max() > 0.1
        assert torch.equal(z[2], changed[2])  # each sequence stops by itself


def test_plain_iteration_is_causal_at_every_step():
    x = randn(2, T, WIDTH, seed=1)
    other = torch.cat([x[:, :4], randn(2, T - 4, WIDTH, seed=2)], 1)
    deq = DEQ(cell_of(), solver=Picard(tol=0.0, max_steps=3))
    assert_close(deq(x)[:, :4], deq(other)[:, :4], 1e-14)


def test_exact_gradient_is_that_of_the_unrolled_iteration():
    cell, x = cell_of(), randn(3, T, WIDTH, seed=1).requires_grad_()
    deq = DEQ(cell, **SHARP)
    for ours, reference in zip(gradients(deq(x), x, cell), gradients(unrolled(cell, x), x, cell), strict=True):
        assert_close(ours, reference, 1e-9)


def test_second_derivatives_by_the_unfused_kernel():
    cell, x = TransformerCell(2, heads=1, expansion=1.0).to(F64), randn(1, 2, 2, seed=1).requires_grad_()
    deq = DEQ(cell, solver=Anderson(tol=1e-13, max_steps=200), adjoint=Implicit(GMRES(tol=1e-12)))
    with sdpa_kernel(SDPBackend.MATH):
        assert torch.autograd.gradgradcheck(deq, x)


def test_transforms_choose_the_kernel_that_has_them():
    cell, x, v = cell_of(), randn(2, 3, WIDTH, seed=1), randn(2, 3, WIDTH, seed=2)
    deq = DEQ(cell, **SHARP)
    _, tangent = torch.func.jvp(deq, (x,), (v,))
    step = 1e-6
    assert_close(tangent, (deq(x + step * v) - deq(x - step * v)) / (2 * step), 1e-7)
    jacobians = torch.func.vmap(torch.func.jacrev(lambda x: deq(x[None])[0]))(x)
    assert_close(torch.einsum("bijkl,bkl->bij", jacobians, v), tangent, 1e-9)


def test_dropout_is_one_mask_a_solve_and_the_same_at_all_positions():
    cell, x = cell_of(dropout=0.5), randn(2, T, WIDTH, seed=1)
    kept = cell._drop(torch.ones(2, T, WIDTH))
    assert set(kept.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(kept, kept[:, :1].expand_as(kept))
    deq = DEQ(cell, **SHARP)
    state = torch.get_rng_state()
    z = deq(x)  # converges: one mask throughout
    torch.set_rng_state(state)
    assert_close(cell(z, x), z, 1e-9)
    assert not torch.equal(deq(x), z)
    deq.eval()
    assert torch.equal(deq(x), deq(x))


def test_runs_compiled():
    cell, x = cell_of().float(), torch.randn(2, T, WIDTH)
    z = torch.randn(2, T, WIDTH)
    compiled = torch.compile(cell, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(z, x), cell(z, x))


def test_branches_and_norms_are_the_formula():
    cell, z, x = cell_of(), randn(2, T, WIDTH, seed=1), randn(2, T, WIDTH, seed=2)
    h = F.layer_norm(x + cell.attention(z), (WIDTH,))
    hidden = torch.relu(h @ cell.up.weight.T + cell.up.bias)
    assert_close(cell(z, x), F.layer_norm(h + hidden @ cell.down.weight.T + cell.down.bias, (WIDTH,)), 1e-12)
