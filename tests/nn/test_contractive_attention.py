"""The contractive cell with attention: its formula by a plain loop, its bound, its equilibria and their derivatives."""

import pytest
import torch
from torch.nn import functional as F

from deqzoo.implicit import GMRES, Anderson, Implicit, Neumann, Picard
from deqzoo.nn import DEQ, AttentionInjection, AttentionInput, ContractiveAttentionCell
from tests.implicit.solvers.helpers import F64, assert_close, randn
from tests.nn.layers import SHARP, unrolled

T, WIDTH, HEADS = 5, 4, 3


def cell_of(**options):
    torch.manual_seed(0)
    cell = ContractiveAttentionCell(WIDTH, HEADS, **options).to(F64)
    with torch.no_grad():
        cell.gain.normal_()
        cell.mix.normal_()
    return cell.eval()


def input_of(seed=1, batch=2):
    """Causal attention whose rows sum to one, or less, and a bias that leaves some units on and some off."""
    scores = 2 * randn(batch, HEADS, T, T, seed=seed)
    attention = scores.masked_fill(torch.ones(T, T).triu(1).bool(), -torch.inf).softmax(-1)
    attention[0] *= 0.7
    return AttentionInput(randn(batch, T, WIDTH, seed=seed + 1), attention.permute(0, 2, 3, 1))


def by_hand(cell, z, x):
    weight = cell.rho_max * torch.sigmoid(cell.gain) * cell.kernel / torch.linalg.matrix_norm(cell.kernel, 2)
    blocks = weight.reshape(WIDTH, HEADS + 1, WIDTH).transpose(0, 1)
    shares = torch.exp(cell.mix) / torch.exp(cell.mix).sum()
    result = torch.zeros_like(z)
    for n in range(len(z)):
        for t in range(T):
            y = x.bias[n, t] + shares[0].sqrt() * blocks[0] @ z[n, t]
            for h in range(HEADS):
                mean = sum(x.attention[n, t, s, h] * z[n, s] for s in range(T))
                y = y + shares[h + 1].sqrt() * blocks[h + 1] @ mean
            result[n, t] = y.clamp(min=0)
    return result


def longest(z):
    """The norm max_t |z_t|_2 of each sequence."""
    return z.norm(dim=-1).amax(-1)


def test_it_is_the_formula():
    cell, z, x = cell_of(), randn(2, T, WIDTH, seed=3), input_of()
    assert_close(cell(z, x), by_hand(cell, z, x), 1e-12)
    assert_close(cell(z, x, cell.prepare(x)), cell(z, x), 1e-14)
    assert_close(cell.initial_state(x), cell(torch.zeros_like(z), x), 1e-14)


@pytest.mark.parametrize("seed", range(5))
def test_no_pair_found_by_ascent_is_torn_further_apart_than_the_bound(seed):
    """Ascent on the distance of the images over |z - y|, of f with all units on, over z - y and A together."""
    cell = cell_of()
    with torch.no_grad():
        cell.kernel.normal_(generator=torch.Generator().manual_seed(seed))
    bias = torch.full((1, T, WIDTH), 50.0, dtype=F64)
    step, scores = randn(1, T, WIDTH, seed=seed), randn(1, T, T, HEADS, seed=seed + 9)
    step.requires_grad_(), scores.requires_grad_()
    optimizer, largest = torch.optim.Adam([step, scores], lr=0.1), 0.0
    for _ in range(300):
        x = AttentionInput(bias, (3 * scores).softmax(2))
        apart = cell(step, x) - cell(torch.zeros_like(step), x)
        ratio = longest(apart) / longest(step)
        largest = max(largest, ratio.item())
        optimizer.zero_grad()
        (-ratio).sum().backward()
        optimizer.step()
    assert largest <= cell.lipschitz() * (1 + 1e-9) < cell.rho_max
    assert largest > 0.6 * cell.lipschitz()


def test_the_bound_is_reached_where_the_shares_are_those_of_the_singular_vector():
    """Each head at another position, of a state along its block v_h of W's singular vector, and m_h = |v_h|^2."""
    cell = ContractiveAttentionCell(WIDTH, HEADS).to(F64).eval()
    _, singular, vh = torch.linalg.svd(cell.weight().detach())
    blocks = vh[0].reshape(HEADS + 1, WIDTH)
    with torch.no_grad():
        cell.mix.copy_(blocks.square().sum(1).log())
    attention = torch.zeros(1, T, T, HEADS, dtype=F64)
    for h in range(HEADS):
        attention[0, T - 1, h, h] = 1
    step = torch.zeros(1, T, WIDTH, dtype=F64)
    step[0, :HEADS], step[0, T - 1] = F.normalize(blocks[1:]), F.normalize(blocks[0], dim=0)
    x = AttentionInput(torch.full((1, T, WIDTH), 50.0, dtype=F64), attention)
    apart = cell(step, x) - cell(torch.zeros_like(step), x)
    assert longest(step).item() == pytest.approx(1)
    assert longest(apart).item() == pytest.approx(cell.lipschitz(), rel=1e-9)
    assert cell.lipschitz() == pytest.approx(singular[0].item(), rel=1e-9)


def test_the_bound_is_of_the_weights_as_they_are():
    for target, certified in ((1.01, False), (0.99, True)):
        cell = cell_of(rho_max=2.0, rho=1.0)
        with torch.no_grad():
            cell.gain.fill_(target / (2 - target)).log_()
        assert cell.lipschitz() == pytest.approx(target, rel=1e-9)
        assert DEQ(cell).certified is certified
    for dtype in (torch.bfloat16, torch.float16):
        assert cell_of().to(dtype).lipschitz() == pytest.approx(cell_of().lipschitz(), rel=0.02)


def test_plain_iteration_contracts_in_the_norm_of_the_bound_whatever_the_start():
    cell, x = cell_of(rho=0.85), input_of()
    z, y = randn(2, T, WIDTH, seed=5), 10 * randn(2, T, WIDTH, seed=6)
    for _ in range(100):
        before, z, y = longest(z - y), cell(z, x), cell(y, x)
        assert bool((longest(z - y) <= cell.lipschitz() * before * (1 + 1e-9) + 1e-14).all())
    assert_close(z, y, 1e-7)


def test_no_position_looks_ahead():
    cell, z, x = cell_of(), randn(1, T, WIDTH, seed=3), input_of(batch=1)
    jacobian = torch.autograd.functional.jacobian(lambda z: cell(z, x), z).reshape(T, WIDTH, T, WIDTH)
    assert not jacobian.abs().amax((1, 3)).triu(1).any()


def test_in_training_the_norm_is_approached_from_below():
    cell, x = cell_of().train(), input_of()
    for _ in range(200):
        cell.prepare(x)
    trained = cell.weight()
    assert_close(cell.eval().weight(), trained, 1e-3)


@pytest.mark.parametrize("training", [True, False])
def test_exact_gradient_is_that_of_the_unrolled_iteration(training):
    cell, x = cell_of().train(), input_of()
    for _ in range(1000):  # the estimate of the norm is differentiated as if its vector were fixed: at the end it is
        cell.prepare(x)
    cell.train(training)
    leaves = AttentionInput(*(part.clone().requires_grad_() for part in x))
    deq = DEQ(cell, solver=Picard(tol=1e-13, max_steps=500), adjoint=Implicit(Neumann(k=500, tol=1e-13)))
    weight, of = randn(2, T, WIDTH, seed=8), [*leaves, cell.kernel, cell.gain, cell.mix]
    ours = torch.autograd.grad((weight * deq(leaves)).sum(), of)
    theirs = torch.autograd.grad((weight * unrolled(cell, leaves)).sum(), of)
    for mine, reference in zip(ours, theirs, strict=True):
        assert reference.abs().max() > 1e-3
        assert_close(mine, reference, 1e-8)


@pytest.mark.slow
def test_second_derivatives():
    cell, x = cell_of(), [part.requires_grad_() for part in input_of(batch=1)]
    deq = DEQ(cell, solver=Anderson(tol=1e-13, max_steps=200), adjoint=Implicit(GMRES(tol=1e-12)))
    assert torch.autograd.gradgradcheck(lambda *x: deq(AttentionInput(*x)), x)


def test_transforms():
    cell, x, v = cell_of(), input_of(), input_of(seed=7)
    deq = DEQ(cell, **SHARP)

    def solved(bias, attention):
        return deq(AttentionInput(bias, attention))

    _, tangent = torch.func.jvp(solved, tuple(x), tuple(v))
    step = 1e-7
    ahead, behind = (solved(*(a + sign * step * b for a, b in zip(x, v, strict=True))) for sign in (1, -1))
    assert_close(tangent, (ahead - behind) / (2 * step), 1e-6)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda *x: solved(*(part[None] for part in x))[0], argnums=(0, 1)))
    of_bias, of_attention = jacobian(*x)
    assert_close(
        torch.einsum("nijkl,nkl->nij", of_bias, v[0]) + torch.einsum("nijklm,nklm->nij", of_attention, v[1]),
        tangent,
        1e-9,
    )
    parameters = {name: p.detach() for name, p in cell.named_parameters()}
    by_func = torch.func.grad(
        lambda own: torch.func.functional_call(deq, {f"cell.{k}": q for k, q in own.items()}, (x,)).sum()
    )
    deq(x).sum().backward()
    for name, value in by_func(parameters).items():
        assert_close(value, cell.get_parameter(name).grad, 1e-8)


def test_runs_compiled_and_exported():
    cell, x, z = cell_of().float(), AttentionInput(*(part.float() for part in input_of())), torch.randn(2, T, WIDTH)
    weight = cell.prepare(x).detach()
    expected = cell(z, x, weight)
    torch.testing.assert_close(torch.compile(cell, backend="aot_eager", fullgraph=True)(z, x, weight), expected)
    exported = torch.export.export(cell, (z, tuple(x), weight)).module()
    torch.testing.assert_close(exported(z, tuple(x), weight), expected)


def test_injection_is_causal_and_makes_averages_of_what_is_near():
    torch.manual_seed(0)
    injection, e = AttentionInjection(3, WIDTH, HEADS, window=T, size=6, context=2).to(F64), randn(2, T, 3, seed=1)
    x = injection(e)
    assert_close(x.attention.sum(2), torch.ones(2, T, HEADS, dtype=F64), 1e-12)
    assert bool((x.attention >= 0).all())
    assert not x.attention.permute(0, 3, 1, 2).triu(1).any()
    near = torch.stack([F.pad(e, (0, 0, 1, 0))[:, :-1], e], -1).flatten(2) @ injection.local.weight.T
    bias = F.layer_norm(near, (WIDTH,))
    assert_close(x.bias, bias, 1e-12)
    q, k = injection.query_key(bias).reshape(2, T, 2, HEADS, 6).unbind(2)
    for h in range(HEADS):
        for t in range(T):
            scores = torch.stack([q[0, t, h] @ k[0, s, h] / 6**0.5 - abs(t - s - 1) / 2**h for s in range(t + 1)])
            assert_close(x.attention[0, t, : t + 1, h], scores.softmax(0), 1e-12)
    changed = injection(torch.cat([e[:, :3], -e[:, 3:]], 1))
    assert_close(changed.bias[:, :3], x.bias[:, :3], 1e-14)
    assert_close(changed.attention[:, :3], x.attention[:, :3], 1e-14)


def test_what_cannot_be_is_told():
    deq = DEQ(cell_of())
    with pytest.raises(ValueError, match=r"attention \(batch, time, time, 3\); it got \(2, 5, 4\) and \(2, 5, 4, 3\)"):
        deq(AttentionInput(torch.zeros(2, T, WIDTH), torch.zeros(2, T, 4, HEADS)))
    with pytest.raises(ValueError, match="width=4 and heads=0 must be positive"):
        ContractiveAttentionCell(4, 0)
    with pytest.raises(ValueError, match="context=0 and size=16 must be positive"):
        AttentionInjection(3, 4, 1, window=5, context=0)
    with pytest.raises(ValueError, match="6 positions is longer than the window of 5"):
        AttentionInjection(3, 4, 1, window=5)(torch.zeros(1, 6, 3))
