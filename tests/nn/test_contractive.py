"""The bound of contractive cells against operators written out, and their equilibria."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from deqzoo.implicit import Implicit, Neumann, Picard
from deqzoo.models import contractive_net
from deqzoo.nn import DEQ, ContractiveConvCell, ContractiveLinearCell, ConvCell

F64 = torch.float64
GRIDS = [(3, 3), (5, 4), (1, 1), (7, 7)]


@pytest.fixture(params=[True, False], ids=["written out", "circulant"])
def both_bounds(request, monkeypatch):
    """The bound by the matrix written out, and that by the circulant, as of larger states."""
    if not request.param:
        monkeypatch.setattr("deqzoo.nn.contractive.WRITTEN_OUT", 0)
    return request.param


every_grid = pytest.mark.parametrize("grid", GRIDS)


def matrix(kernel, grid):
    """The zero-padded convolution, written out."""
    n = kernel.shape[1] * grid[0] * grid[1]
    unit = torch.eye(n, dtype=kernel.dtype).view(n, kernel.shape[1], *grid)
    return F.conv2d(unit, kernel, padding=1).flatten(1).T


def norm(kernel, grid):
    return torch.linalg.svdvals(matrix(kernel.double(), grid))[0].item()


def kernels(channels):
    """Random, smooth, of one tap, of a sign that alternates, of rank one: each the worst of its kind somewhere."""
    random = torch.Generator().manual_seed(0)
    checker = torch.tensor([[1.0, -1, 1], [-1, 1, -1], [1, -1, 1]])
    yield torch.randn(channels, channels, 3, 3, generator=random)
    yield torch.rand(channels, channels, 3, 3, generator=random)
    yield torch.randn(channels, channels, 1, 1, generator=random) * checker
    yield F.pad(torch.randn(channels, channels, 1, 1, generator=random), (2, 0, 0, 2))
    yield torch.ones(channels, 1, 1, 1) * torch.randn(1, channels, 3, 3, generator=random)
    yield torch.zeros(channels, channels, 3, 3).index_fill_(2, torch.tensor([0]), 1.0)


def cell_of(kernel, grid, **options):
    cell = ContractiveConvCell(len(kernel), grid, **options).to(kernel.dtype)
    with torch.no_grad():
        cell.kernel.copy_(kernel)
        cell.gain.normal_(generator=torch.Generator().manual_seed(1))
    return cell.eval()


@every_grid
def test_the_bound_is_above_the_norm_and_near_it(grid, both_bounds):
    for kernel in kernels(4):
        cell = cell_of(kernel.double(), grid)
        rho = cell.rho_max * torch.sigmoid(cell.gain)
        true = norm(cell.weight() / rho, grid)  # of V / bound
        assert true <= 1 + 1e-12
        if both_bounds and true > 1e-9:
            assert true == pytest.approx(1, rel=1e-9)
        if min(grid) > 4:  # on small grids the border takes much of the circulant's norm
            assert true > 0.8
        assert norm(cell.weight(), grid) <= cell.lipschitz() + 1e-12 < cell.rho_max


@every_grid
def test_no_pair_found_by_ascent_is_torn_further_apart_than_the_bound(grid, both_bounds):
    for kernel in kernels(3):
        cell = cell_of(kernel.double(), grid)
        x = torch.full((1, 3, *grid), 50.0, dtype=F64)  # no unit is off, so that relu spares nothing
        step = torch.randn(1, 3, *grid, dtype=F64, generator=torch.Generator().manual_seed(2))
        for _ in range(200):  # power iteration through the cell itself
            step = (step / step.norm().clamp(min=1e-30)).requires_grad_()  # of a kernel without a centre, zero
            apart = cell(step, x) - cell(torch.zeros_like(step), x)
            (ascent,) = torch.autograd.grad(0.5 * apart.square().sum(), step)
            step = ascent.detach()
        assert apart.norm() <= cell.lipschitz() * (1 + 1e-9)
        if min(grid) > 4:
            assert apart.norm() > 0.6 * cell.lipschitz()


def test_the_bound_of_a_dense_cell_is_its_norm():
    deq = DEQ(ContractiveLinearCell(20, rho=0.8), solver=Picard(tol=1e-10, max_steps=300)).double()
    cell, x = deq.cell, torch.randn(7, 20, dtype=F64, generator=torch.Generator().manual_seed(0))
    for _ in range(200):
        cell.prepare(x)
    trained = cell.weight()
    cell.eval()
    torch.testing.assert_close(cell.weight(), trained, rtol=1e-3, atol=1e-6)
    assert torch.linalg.svdvals(cell.weight())[0].item() == pytest.approx(0.8, rel=1e-9)
    assert cell.lipschitz() == pytest.approx(0.8, rel=1e-9)
    z = deq(x)
    torch.testing.assert_close(torch.relu(z @ cell.weight().T + x), z)
    assert deq.certified


def test_a_cell_of_norm_above_one_is_not_certified():
    kernel = torch.randn(4, 4, 3, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
    cell = cell_of(kernel, (5, 5), rho_max=2.0, rho=1.0)
    for target, certified in ((1.01, False), (0.99, True)):
        with torch.no_grad():
            cell.gain.copy_(torch.full_like(cell.gain, target / (2 - target)).log())
        assert cell.lipschitz() == pytest.approx(target, rel=1e-9)
        assert DEQ(cell).certified is certified
    assert not DEQ(ConvCell(8)).certified


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_of_half_precision_are_bounded_after_rounding(dtype):
    for kernel in kernels(4):
        cell = cell_of(kernel, (5, 5)).to(dtype)
        weight = cell.weight()
        assert weight.dtype == dtype
        assert norm(weight, (5, 5)) <= cell.lipschitz() + 1e-12


def test_what_rounding_lifts_to_one_is_not_certified():
    cell = ContractiveLinearCell(1, rho_max=1.0, rho=0.999).eval()  # in bfloat16 .999 is 1
    deq = DEQ(cell)
    assert cell.lipschitz() == pytest.approx(0.999)
    assert deq.certified
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert cell.lipschitz() == pytest.approx(1.0, rel=1e-11)
        assert not deq.certified
    assert not deq.bfloat16().certified


def test_the_bound_follows_the_weights_and_their_precision():
    cell = cell_of(torch.randn(4, 4, 3, 3, generator=torch.Generator().manual_seed(0)), (5, 5))
    before = cell.weight()
    assert torch.equal(cell.weight(), before)
    cell.kernel.data.mul_(3.0)  # which no version counter tells of
    torch.testing.assert_close(cell.weight(), before)
    cell.kernel.data[0, 0, 0, 0] += 1
    assert norm(cell.weight(), (5, 5)) <= cell.lipschitz()
    torch.testing.assert_close(cell.double().weight(), copy.deepcopy(cell).double().weight())


def test_another_grid_is_refused():
    with pytest.raises(ValueError, match=r"samples of shape \(4, 5, 5\), got \(4, 6, 5\)"):
        DEQ(ContractiveConvCell(4, (5, 5)))(torch.zeros(1, 4, 6, 5))


def test_in_training_the_norm_is_approached_from_below_as_the_weights_move():
    cell = ContractiveConvCell(6, (7, 7)).train()
    x = torch.zeros(1, 6, 7, 7)
    for _ in range(100):
        cell.prepare(x)
    torch.testing.assert_close(
        cell.weight() / cell.rho_max / torch.sigmoid(cell.gain),
        cell.kernel / norm(cell.kernel, (7, 7)),
        rtol=1e-3,
        atol=1e-5,
    )
    state = copy.deepcopy(cell.state_dict())
    cell.eval().prepare(x)
    with torch.no_grad():
        cell.train().prepare(x)
    assert all(torch.equal(value, state[name]) for name, value in cell.state_dict().items())


@pytest.mark.parametrize("training", [True, False])
def test_gradients_are_those_of_finite_differences(training):
    torch.manual_seed(0)
    deq = DEQ(
        ContractiveConvCell(3, (4, 4)),
        solver=Picard(tol=1e-13, max_steps=500),
        adjoint=Implicit(Neumann(k=500, tol=1e-13)),
    ).double()
    cell, x = deq.cell, torch.randn(2, 3, 4, 4, dtype=F64, requires_grad=True)
    for _ in range(300):  # the estimate of the norm is differentiated as if its vector were fixed: at the end it may be
        cell.train().prepare(x)
    deq.train(training)
    weights = torch.randn(2, 3, 4, 4, dtype=F64)

    def loss():
        return (weights * deq(x)).sum()

    loss().backward()
    for tensor in (cell.kernel, cell.gain, x):
        direction, step = torch.randn_like(tensor), 1e-5
        with torch.no_grad():
            values = []
            for sign in (1, -1):
                tensor += sign * step * direction
                if training:
                    with torch.enable_grad():
                        for _ in range(50):
                            cell.prepare(x)
                values.append(loss().item())
                tensor -= sign * step * direction
        expected = (values[0] - values[1]) / (2 * step)
        assert (tensor.grad * direction).sum().item() == pytest.approx(expected, rel=1e-6, abs=1e-8)


def test_every_sample_converges_at_the_rate_of_the_bound():
    deq = DEQ(ContractiveConvCell(8, (6, 6)).eval(), solver=Picard(tol=1e-5, max_steps=60, trace=True))
    deq(torch.randn(16, 8, 6, 6))
    assert bool(deq.solution.converged.all())
    assert deq.certified
    # g of step k + 1 is at most rho times that of step k.
    assert bool((deq.solution.trace[1:5] < 0.75 * deq.solution.trace[:4]).all())


def test_a_training_step_evaluates_the_cell_once_more_than_the_solve():
    cell, calls = ContractiveConvCell(4, (5, 5)), []
    deq = DEQ(cell, solver=Picard(tol=1e-4), adjoint=Implicit(Neumann(k=30, tol=1e-4)))
    cell.register_forward_hook(lambda *_: calls.append(0))
    deq(torch.randn(3, 4, 5, 5)).square().sum().backward()
    assert len(calls) == deq.solution.nfe + 1
    assert deq.solution.backward.nfe > 0


def test_a_compact_solve_cuts_the_samples_and_not_a_kernel_of_as_many_channels():
    solver = Picard(tol=1e-6, max_steps=100)
    deq = DEQ(ContractiveConvCell(4, (5, 5)).eval(), solver=solver).eval()
    x = torch.randn(4, 4, 5, 5) * torch.tensor([1e-3, 1.0, 0.0, 1e3]).view(4, 1, 1, 1) - 0.1
    expected = deq(x)
    assert deq.solution.steps.unique().numel() > 1
    deq.compact = True
    torch.testing.assert_close(deq(x), expected)
    assert bool(deq.solution.converged.all())


@pytest.mark.parametrize("body", ["equilibrium", "once", "explicit"])
def test_the_bodies_have_as_many_parameters_and_train(body):
    network = contractive_net((16, 16), ["a", "b"], [0.5] * 3, [0.3] * 3, widths=[8, 12], body=body)
    network.stem[0].fit(torch.randn(20, 3, 16, 16))
    counted = sum(p.numel() for p in network.parameters())
    assert counted == pytest.approx(24 * 12 + 24 + 9 * (24 * 8 + 8 * 8 + 8 * 12 + 12 * 12) + 60, abs=24)
    F.cross_entropy(network(torch.rand(6, 3, 16, 16)), torch.tensor([0, 1] * 3)).backward()
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    assert {name for name, p in network.named_parameters() if p.grad is not None} == trained
    assert "stem.0.weight" not in trained
    assert all(bool(torch.isfinite(p.grad).all()) for p in network.parameters() if p.requires_grad)


def test_wrong_options_are_told():
    options = {"size": (16, 16), "classes": ["a"], "mean": [0.5], "std": [0.5]}
    with pytest.raises(ValueError, match="equilibrium, once, explicit"):
        contractive_net(**options, widths=[4], body="deq")
    with pytest.raises(ValueError, match="cannot be halved"):
        contractive_net(**options, widths=[4] * 4)
    with pytest.raises(ValueError, match="rho_max"):
        ContractiveConvCell(4, (5, 5), rho_max=0.5)


def test_batch_norm_without_scale_is_torchs_with_scale_one():
    network = contractive_net((8, 8), ["a"], [0.5], [0.5], widths=[4])
    ours, theirs = network.body[0][0].norm, nn.BatchNorm2d(4)
    x = torch.randn(5, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours.bias.copy_(torch.arange(4.0))
        theirs.bias.copy_(torch.arange(4.0))
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))
