"""Tolerances of each component, of each sample, and of trees."""

import dataclasses
import math

import pytest
import torch

from deqzoo.implicit import Backsolve, Direct, Discrete, Kvaerno5, Rodas5P, Tsit5, odeint, odeint_dense, odeint_event

from .problems import randn

RATES = torch.tensor([1.0, 30.0], dtype=torch.float64)
LOOSE = torch.tensor([1e-8, 10.0], dtype=torch.float64)  # nothing is asked of the second component


def decay(t, y, rates=RATES):
    return -rates * y


def steps(solver, y0=None, f=decay, **options):
    y0 = torch.ones(2, dtype=torch.float64) if y0 is None else y0
    y, solution = odeint(f, y0, [0.0, 1.0], solver=solver, return_solution=True, **options)
    return y, solution.steps


@pytest.mark.parametrize("solver", [Tsit5, Kvaerno5, Rodas5P])
def test_the_component_with_the_small_tolerance_sets_the_steps(solver):
    slow = torch.tensor([1.0, 0.0], dtype=torch.float64)
    y, taken = steps(solver(rtol=0.0, atol=LOOSE))
    assert y[-1, 0].item() == pytest.approx(math.exp(-1), abs=1e-7)
    assert taken < steps(solver(rtol=0.0, atol=1e-8))[1]
    alone = steps(solver(rtol=0.0, atol=1e-8), f=lambda t, y: -slow * y)[1]
    assert taken >= alone
    same = steps(solver(rtol=0.0, atol=torch.full((2,), 1e-8, dtype=torch.float64)))
    torch.testing.assert_close(same[0], steps(solver(rtol=0.0, atol=1e-8))[0], rtol=0, atol=0)


def test_relative_tolerances_of_each_component():
    rtol = torch.tensor([1e-9, 1e-3], dtype=torch.float64)
    y, few = steps(Tsit5(rtol=rtol, atol=0.0))
    _, many = steps(Tsit5(rtol=1e-9, atol=0.0))
    assert few < many
    assert y[-1].tolist() == pytest.approx([math.exp(-1), math.exp(-30)], rel=5e-3)
    _, swapped = steps(Tsit5(rtol=rtol.flip(0), atol=0.0))
    assert few < swapped


@pytest.mark.parametrize("solver", [Tsit5, Kvaerno5, Rodas5P])
@pytest.mark.parametrize("compact", [False, True])
def test_each_sample_has_tolerances_of_its_own(solver, compact):
    start, options = torch.ones(3, 2, dtype=torch.float64), {"batch_dims": 1, "compact": compact}
    for samples in (torch.tensor([[1e-9], [1e-3], [1e-6]]), torch.tensor([[1e-9] * 2, [1e-3] * 2, [1e-6] * 2])):
        y, taken = steps(solver(rtol=0.0, atol=samples), start, **options)
        assert taken[0] > taken[2] > taken[1]
        for row, atol in enumerate(samples[:, 0].tolist()):
            expected, alone = steps(solver(rtol=0.0, atol=atol), start[:1], batch_dims=1)
            torch.testing.assert_close(y[:, row], expected[:, 0], rtol=1e-5, atol=atol)
            assert taken[row] == pytest.approx(alone.item(), abs=1)  # Jacobians are renewed for all samples at once
    without_batch = steps(solver(rtol=0.0, atol=LOOSE), start, **options)[1]
    assert without_batch.tolist() == [steps(solver(rtol=0.0, atol=LOOSE))[1]] * 3
    one_number_each = steps(
        solver(rtol=0.0, atol=torch.tensor([1e-9, 1e-3])), torch.ones(2).double(), lambda t, y: -y, **options
    )
    assert one_number_each[1][0] > one_number_each[1][1]


def test_trees():
    y0 = {"a": torch.ones(3, dtype=torch.float64), "b": torch.ones(2, 2, dtype=torch.float64)}

    def f(t, y):
        return {"b": -30 * y["b"], "a": -y["a"]}

    y, few = steps(Tsit5(rtol=0.0, atol={"b": 10.0, "a": torch.tensor([1e-8])}), y0, f)
    assert y["a"][-1].tolist() == pytest.approx([math.exp(-1)] * 3, abs=1e-7)
    _, many = steps(Tsit5(rtol=0.0, atol={"b": torch.tensor([[1e-8], [1.0]]), "a": 1.0}), y0, f)
    assert few < many
    assert steps(Tsit5(rtol=torch.tensor(1e-6), atol=0.0), y0, f)[1] == steps(Tsit5(rtol=1e-6, atol=0.0), y0, f)[1]


@pytest.mark.parametrize(
    ("solver", "adjoint"),
    [
        (Tsit5, Discrete()), (Tsit5, Discrete(2)), (Tsit5, Direct()), (Tsit5, Backsolve()),
        (Tsit5, Backsolve(seminorm=False)), (Tsit5, Backsolve(rtol=1e-8, atol=1e-10)),
        (Kvaerno5, Discrete(2)), (Kvaerno5, Direct()), (Rodas5P, Discrete(2)), (Rodas5P, Direct()),
    ],
)  # fmt: skip
@pytest.mark.parametrize("batch_dims", [0, 1])
def test_gradients(solver, adjoint, batch_dims):
    """y = exp(-rate) y0, in units that differ by 1e6."""
    units = torch.tensor([1.0, 1e-6], dtype=torch.float64)
    rates = torch.tensor([1.0, 5.0], dtype=torch.float64, requires_grad=True)
    y0 = (torch.ones(3, 2, dtype=torch.float64) * units).requires_grad_()
    atol = 1e-8 * units
    atol = atol.requires_grad_() if batch_dims else atol.expand(3, 2)  # constants, whatever they are
    y = odeint(
        decay, y0, [0.0, 1.0], rates, solver=solver(rtol=1e-7, atol=atol), adjoint=adjoint, batch_dims=batch_dims
    )
    of_y0, of_rates = torch.autograd.grad((y[-1] / units).sum(), [y0, rates])
    decayed = torch.exp(-rates.detach())
    torch.testing.assert_close(of_y0 * units, decayed.expand(3, 2), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(of_rates, -3 * decayed, rtol=1e-4, atol=1e-6)


def test_transforms():
    atol = torch.tensor([1e-9, 1e-4], dtype=torch.float64)

    def end(y0, atol=atol):
        return odeint(decay, y0, [0.0, 1.0], solver=Tsit5(rtol=0.0, atol=atol))[-1]

    y0 = randn(4, 2)
    torch.testing.assert_close(torch.func.vmap(end)(y0), y0 * torch.exp(-RATES), rtol=0, atol=1e-4)
    torch.testing.assert_close(torch.func.jacrev(end)(y0[0]), torch.diag(torch.exp(-RATES)), rtol=0, atol=1e-4)
    of_each = torch.func.vmap(end)(y0, atol.expand(4, 2).contiguous())
    torch.testing.assert_close(of_each, y0 * torch.exp(-RATES), rtol=0, atol=1e-4)


def test_dense_solutions_events_and_first_steps():
    solver, start = Tsit5(rtol=0.0, atol=LOOSE), torch.ones(2, dtype=torch.float64)
    assert odeint_dense(decay, start, [0.0, 1.0], solver=solver)(0.5)[0].item() == pytest.approx(math.exp(-0.5), 1e-5)
    time, _ = odeint_event(decay, start, [0.0, 2.0], lambda t, y: y[0] - 0.5, solver=solver)
    assert time.item() == pytest.approx(math.log(2), rel=1e-5)
    for first_step in ("span", 0.1):
        y, _ = steps(dataclasses.replace(solver, first_step=first_step))
        assert y[-1, 0].item() == pytest.approx(math.exp(-1), abs=1e-7)


def test_solvers_are_equal_where_their_tolerances_are():
    same, other = Tsit5(atol=LOOSE.clone()), Tsit5(atol=2 * LOOSE)
    assert Tsit5(atol=LOOSE) == same
    assert hash(Tsit5(atol=LOOSE)) == hash(same)
    assert Tsit5(atol=LOOSE) != other
    assert Tsit5() != same
    assert Tsit5(rtol={"a": LOOSE, "b": 1.0}) == Tsit5(rtol={"a": LOOSE.clone(), "b": 1.0})
    assert Tsit5(rtol={"a": LOOSE, "b": 1.0}) != Tsit5(rtol={"a": LOOSE.clone(), "b": 2.0})
    assert Tsit5() == Tsit5()
    assert Tsit5() != Kvaerno5()
    assert hash(Tsit5()) == hash(Tsit5())
    assert {Tsit5(): 1}[Tsit5()] == 1
    assert "tensor" in repr(same)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Tsit5(atol=torch.tensor([1e-6, -1.0])), "negative"),
        (lambda: Tsit5(rtol={"a": -1.0}), "negative"),
        (lambda: Tsit5(rtol=torch.tensor([torch.nan])), "negative"),
        (lambda: Tsit5(rtol=0, atol=0.0), "both zero"),
        (lambda: Tsit5(rtol="tight"), "number"),
        (lambda: Tsit5(rtol=torch.tensor([1j])), "real"),
        (lambda: Tsit5(rtol=0.0, atol=torch.tensor([0.0, 1.0])), "both be zero"),
        (lambda: Tsit5(atol=torch.ones(3)), "does not broadcast"),
        (lambda: Tsit5(atol=torch.ones(2, 1, 2)), "does not broadcast"),
        (lambda: Tsit5(atol=[1.0, 1.0]), "one tensor"),
        (lambda: Tsit5(atol={"a": 1.0}), "one tensor"),
    ],
)
def test_wrong_tolerances(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        odeint(decay, torch.ones(2, dtype=torch.float64), [0.0, 1.0], solver=make())


def test_a_tree_does_not_take_the_tolerances_of_a_tensor():
    with pytest.raises(ValueError, match="structure"):
        odeint(lambda t, y: y, {"a": torch.ones(2)}, [0.0, 1.0], solver=Tsit5(atol=torch.ones(2)))
