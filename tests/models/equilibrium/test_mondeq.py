"""monDEQs against a semismooth Newton solve with W written out; their gradients; the classifiers."""

import copy

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call, jacrev, jvp, vmap
from torch.nn.functional import cross_entropy

from deqzoo.implicit import Anderson, ForwardBackward, Implicit, NonConvergenceWarning, PeacemanRachford, Picard
from deqzoo.models import conv_net, mondeq_conv, mondeq_fc
from deqzoo.nn import MonDEQ, MonotoneConv2d, MonotoneLinear
from tests.nn.test_monotone import CELLS, F64, build, dense, every_cell, flat, state, unflat

LABELS, MEAN, STD = ["cat", "dog", "owl"], [0.5], [0.3]
EXACT = PeacemanRachford(alpha=0.5, max_steps=1000)
NETWORKS = {
    "fc": lambda **options: mondeq_fc(64, LABELS, MEAN, STD, features=12, **options),
    "conv": lambda **options: mondeq_conv(LABELS, MEAN, STD, widths=[6], grid=2, **options),
    "strided": lambda **options: mondeq_conv(LABELS, MEAN, STD, widths=[6], stride=2, grid=2, **options),
    "tiers": lambda **options: mondeq_conv(LABELS, MEAN, STD, widths=[4, 6], grid=2, **options),
    "explicit": lambda **options: conv_net(LABELS, MEAN, STD, width=6, grid=2),
}
every_network = pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS.keys())


def images(n=3, seed=1):
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def by_newton(cell, x, z):
    """z = prox(W z + x) by semismooth Newton steps with dense W; the border counts as inactive."""
    W, like = dense(cell, x).detach(), state(cell, x)
    eye, z = torch.eye(len(W), dtype=F64), flat(z)
    b = flat(cell.inject(unflat(torch.zeros_like(z), like), x))
    inside = flat(cell.prox(unflat(torch.ones_like(z), like)))
    for _ in range(60):
        v = z @ W.T + b
        active = inside * (v > 0)
        step = torch.linalg.solve(eye - active.unsqueeze(2) * W, (active * v - z).unsqueeze(2)).squeeze(2)
        z = z + step
    assert step.abs().max() < 1e-10
    return z


@every_cell
@pytest.mark.parametrize("seed", range(3))
def test_equals_semismooth_newton_from_random_starts_and_parameters(widths, size, seed):
    cell, x = build(widths, size, margin=(0.3, 1.0, 3.0)[seed], seed=seed)
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.mul_(0.5)
    starts = [unflat(5 * torch.randn(flat(state(cell, x)).shape, dtype=F64), state(cell, x)) for _ in range(2)]
    expected = by_newton(cell, x, starts[0])
    for start in starts:
        mondeq = MonDEQ(cell, solver=EXACT)
        z = flat(mondeq(x, start))
        assert mondeq.solution.converged.all()
        assert (z - expected).norm() <= 1e-8 * expected.norm()


@every_cell
def test_splitting_agrees_with_iterations_that_know_nothing_of_w(widths, size):
    cell, x = build(widths, size, margin=1.0)
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.mul_(0.3)
    expected = flat(MonDEQ(cell, solver=EXACT)(x))
    for solver in (ForwardBackward(max_steps=2000), Anderson(max_steps=500), Picard(damping=0.1, max_steps=2000)):
        mondeq = MonDEQ(cell, solver=solver)
        torch.testing.assert_close(flat(mondeq(x)), expected, rtol=1e-8, atol=1e-8)
        assert mondeq.solution.converged.all()


def test_splitting_converges_where_iterations_that_know_nothing_of_w_do_not():
    torch.manual_seed(0)
    cell = MonotoneConv2d([6], margin=1.0)
    with torch.no_grad():
        cell.skew[0].scale.fill_(3.0)
        cell.symmetric[0].scale.fill_(1.5)
    x, nfe = torch.randn(4, 6, 10, 10), {}
    for solver in (PeacemanRachford(alpha=0.5), ForwardBackward(alpha=0.05), Anderson(), Picard()):
        mondeq = MonDEQ(cell, solver=type(solver)(**{**vars(solver), "tol": 1e-4, "max_steps": 300}))
        mondeq(x)
        nfe[type(solver)] = mondeq.solution.nfe if mondeq.solution.converged.all() else torch.inf
    assert nfe[PeacemanRachford] < nfe[ForwardBackward] < nfe[Anderson] == nfe[Picard] == torch.inf


SMALL = {"fc": (3, None), "conv": ([1], (5, 5)), "tiers": ([1, 1], (8, 8))}


@pytest.mark.parametrize(
    ("widths", "size"),
    [pytest.param(*SMALL[name], id=name, marks=[pytest.mark.slow] if name == "tiers" else []) for name in SMALL],
)
def test_gradients_with_respect_to_input_and_parameters(widths, size):
    cell, x = build(widths, size, margin=1.0)
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.mul_(0.3)
    x = x[:1].requires_grad_()
    mondeq = MonDEQ(cell, solver=PeacemanRachford())
    names = [name for name, _ in cell.named_parameters()]

    def solved(x, *parameters):
        z = functional_call(mondeq, {f"cell.{n}": p for n, p in zip(names, parameters, strict=True)}, (x,))
        return flat(z).sum(dim=1), flat(z)[:, ::7]

    inputs = (x, *cell.parameters())
    assert gradcheck(solved, inputs, fast_mode=size is not None)
    assert gradgradcheck(solved, inputs, fast_mode=True)


def test_gradients_equal_those_of_an_unrolled_solve():
    cell, x = build([2, 2], (12, 8), margin=1.0)
    x.requires_grad_()

    def unrolled():
        weight, z = cell.weight(x), cell.initial_state(x)
        for _ in range(400):
            moved = cell.affine(z, x, weight)
            z = cell.prox(tuple(a + 0.1 * (b - a) for a, b in zip(z, moved, strict=True)))
        return z

    inputs = [x, *cell.parameters()]
    ours = torch.autograd.grad(flat(MonDEQ(cell, solver=EXACT)(x)).square().sum(), inputs)
    reference = torch.autograd.grad(flat(unrolled()).square().sum(), inputs)
    for a, b in zip(ours, reference, strict=True):
        assert (a - b).norm() <= 1e-6 * b.norm() + 1e-12


@pytest.mark.parametrize(("widths", "size"), CELLS.values(), ids=CELLS.keys())
def test_transforms_of_each_sample(widths, size):
    cell, x = build(widths, size, margin=1.0)
    mondeq = MonDEQ(cell, solver=EXACT)
    gradients = vmap(jacrev(lambda row: flat(mondeq(row.unsqueeze(0))).square().sum()))(x)
    x.requires_grad_()
    (expected,) = torch.autograd.grad(flat(mondeq(x)).square().sum(), x)
    torch.testing.assert_close(gradients, expected, rtol=1e-6, atol=1e-8)
    x, tangent, step = x.detach(), torch.randn_like(x), 1e-6
    _, moved = jvp(lambda x: flat(mondeq(x)), (x,), (tangent,))
    with torch.no_grad():
        difference = flat(mondeq(x + step * tangent)) - flat(mondeq(x - step * tangent))
    torch.testing.assert_close(moved, difference / (2 * step), rtol=1e-5, atol=1e-6)


def test_warns_when_it_does_not_converge():
    mondeq = MonDEQ(MonotoneLinear(4), solver=PeacemanRachford(tol=1e-6, max_steps=1), on_failure="warn")
    with pytest.warns(NonConvergenceWarning, match="3 of 3 systems did not converge"):
        mondeq(torch.randn(3, 4))
    assert MonDEQ(MonotoneLinear(4)).solver == PeacemanRachford(tol=1e-3)


@every_network
@pytest.mark.parametrize("n", [0, 1, 5])
def test_logits_have_a_column_per_class(make, n):
    model = make()
    assert model(images(n)).shape == (n, 3)
    assert model.classes == ("cat", "dog", "owl")
    assert model.equilibria == ([model.body] if isinstance(model.body, MonDEQ) else [])


@pytest.mark.parametrize("make", [NETWORKS[name] for name in ("fc", "conv", "tiers", "explicit")])
def test_every_parameter_gets_a_gradient_and_one_batch_is_overfitted(make):
    torch.manual_seed(0)
    model = make()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    batch, labels = images(3), torch.arange(3)
    for step in range(40):
        loss = cross_entropy(model(batch), labels)
        optimizer.zero_grad()
        loss.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            assert step or parameter.grad.abs().max() > 0, name
        optimizer.step()
    assert (model(batch).argmax(1) == labels).all()
    assert loss < 0.3


@every_network
def test_a_sample_gets_the_same_logits_in_any_batch_and_mode(make):
    torch.manual_seed(0)
    model = make(solver=PeacemanRachford(tol=1e-6)).eval()
    together = model(images(4))
    for i in range(4):
        torch.testing.assert_close(model(images(4)[i : i + 1])[0], together[i], rtol=1e-4, atol=1e-4)
    with torch.inference_mode():
        torch.testing.assert_close(model(images(4)), together)
    assert torch.equal(copy.deepcopy(model)(images(4)), together)


def test_the_explicit_baseline_has_as_many_parameters_but_for_two_scales():
    sizes = [sum(p.numel() for p in NETWORKS[name]().parameters()) for name in ("conv", "explicit")]
    assert sizes[0] - sizes[1] == 2


def test_the_normalisation_is_inside():
    torch.manual_seed(0)
    model = NETWORKS["conv"](adjoint=Implicit()).eval()
    plain = copy.deepcopy(model)
    plain.mean, plain.std = torch.zeros(1, 1, 1), torch.ones(1, 1, 1)
    torch.testing.assert_close(model(images()), plain((images() - 0.5) / 0.3))


def test_bfloat16_autocast_trains():
    for name in ("fc", "conv"):
        model = NETWORKS[name](solver=PeacemanRachford(tol=1e-2))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = cross_entropy(model(images()).float(), torch.tensor([0, 1, 2]))
        loss.backward()
        assert all(torch.isfinite(p.grad).all() and p.grad.dtype == torch.float32 for p in model.parameters())
