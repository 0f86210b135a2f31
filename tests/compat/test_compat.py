"""Other libraries' ways of calling: the same calls of both give the same results and gradients."""

from argparse import Namespace

import pytest
import torch
import torchdiffeq
from torch import nn

from deqzoo.compat import torchdiffeq as ours
from deqzoo.compat.torchdeq import get_deq
from deqzoo.implicit import NonConvergenceError

F64 = torch.float64
TIMES = torch.linspace(0.0, 1.0, 7, dtype=F64)


class Field(nn.Module):
    """A rotation that slows down, of a tensor or of a tuple."""

    def __init__(self):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor([[0.0, 1.3], [-1.1, 0.1]], dtype=F64))

    def forward(self, t, y):
        if isinstance(y, tuple):
            return tuple(self.forward(t, each) for each in y)
        return y @ self.rate * torch.cos(t) - 0.1 * y**3


def gradients(solve, y0, times, **options):
    field, y0 = Field(), y0.clone().requires_grad_()
    y = solve(field, y0, times, **options)
    y[1:].square().sum().backward()
    return y.detach(), y0.grad, field.rate.grad


CALLS = [
    {},
    {"method": "dopri5", "rtol": 1e-8, "atol": 1e-8},
    {"method": "dopri8"},
    {"method": "bosh3", "rtol": 1e-6, "atol": 1e-6},
    {"method": "euler", "options": {"step_size": 1 / 60}},
    {"method": "midpoint"},
    {"method": "adaptive_heun", "rtol": 1e-5, "atol": 1e-5},
    {"method": "explicit_adams"},
    {"method": "dopri5", "options": {"first_step": 0.01, "max_num_steps": 5000}},
]


@pytest.mark.parametrize("call", CALLS, ids=str)
@pytest.mark.parametrize("times", [TIMES, TIMES.flip(0)], ids=["forwards", "backwards"])
def test_odeint_is_torchdiffeqs_or_nearer_to_the_solution(call, times):
    """The same steps give the same numbers; where the steps are each library's own, ours may not be the worse ones."""
    y0 = torch.tensor([[1.0, 0.5], [-0.3, 2.0]], dtype=F64)
    found, theirs = gradients(ours.odeint, y0, times, **call), gradients(torchdiffeq.odeint, y0, times, **call)
    exact = gradients(ours.odeint, y0, times, method="dopri8", rtol=1e-12, atol=1e-13)
    for mine, other, true in zip(found, theirs, exact, strict=True):
        if call.get("method", "dopri5") in ("dopri5", "dopri8", "bosh3"):
            assert (mine - true).abs().max() <= (other - true).abs().max()
        else:
            torch.testing.assert_close(mine, other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("options", [{}, {"adjoint_options": {"norm": "seminorm"}}, {"adjoint_rtol": 1e-6}], ids=str)
def test_odeint_adjoint_is_torchdiffeqs(options):
    y0 = torch.tensor([[1.0, 0.5], [-0.3, 2.0]], dtype=F64)
    for found, expected in zip(
        gradients(ours.odeint_adjoint, y0, TIMES, **options),
        gradients(torchdiffeq.odeint_adjoint, y0, TIMES, **options),
        strict=True,
    ):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_tuples_of_tensors():
    y0 = torch.ones(3, 2, dtype=F64), torch.zeros(1, 2, dtype=F64)
    found, expected = ours.odeint(Field(), y0, TIMES), torchdiffeq.odeint(Field(), y0, TIMES)
    assert isinstance(found, tuple)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


LEFT = [  # to torchdiffeq
    {"options": {"norm": torch.linalg.vector_norm}},
    {"options": {"safety": 0.8}},
    {"method": "euler", "options": {"grid_constructor": lambda f, y0, t: torch.linspace(0, 1, 31, dtype=F64)}},
    {"method": "rk4", "options": {"step_size": 0.1, "perturb": True}},
    {"adjoint_method": "adaptive_heun"},
    {"adjoint_options": {"norm": lambda parts: max(part.abs().max() for part in parts)}},
]


@pytest.mark.parametrize("call", LEFT)
def test_what_deqzoo_has_not_is_torchdiffeqs_to_the_last_bit(call):
    y0 = torch.tensor([[1.0, 0.5], [-0.3, 2.0]], dtype=F64)
    name = "odeint_adjoint" if "adjoint" in str(call) else "odeint"
    found, expected = (gradients(getattr(library, name), y0, TIMES, **call) for library in (ours, torchdiffeq))
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=0)


@pytest.mark.parametrize("solve", ["odeint", "odeint_adjoint"])
def test_an_event_ends_the_solve(solve):
    field, y0 = Field(), torch.tensor([[1.0, 0.5]], dtype=F64)
    options = {"event_fn": lambda t, y: y[0, 0] - 0.5, "method": "dopri5"}
    time, states = getattr(ours, solve)(field, y0, TIMES[:2], **options)
    wanted, theirs = getattr(torchdiffeq, solve)(field, y0, TIMES[:2], **options)
    assert 0 < time == wanted
    torch.testing.assert_close(states, theirs, rtol=0, atol=0)
    assert states[-1, 0, 0].item() == pytest.approx(0.5, abs=1e-6)


def test_what_neither_has_is_told():
    y0 = torch.ones(2, dtype=F64)
    with pytest.raises(ValueError, match="options has safty; dopri5 has first_step"):
        ours.odeint_adjoint(Field(), y0, TIMES, options={"safty": 1})
    with pytest.raises(NonConvergenceError):
        ours.odeint(lambda t, y: y**2, torch.ones(1), torch.tensor([0.0, 2.0]), options={"max_num_steps": 100})


@pytest.mark.parametrize("options", [{"ift": True}, {"grad": 50}, {"ift": True, "f_solver": "broyden"}], ids=str)
def test_get_deq_finds_the_equilibrium_and_its_gradient(options):
    x = torch.linspace(-1, 1, 6, dtype=F64).reshape(3, 2).requires_grad_()
    deq = get_deq({"f_tol": 1e-10}, f_max_iter=200, **options)
    z_out, info = deq(lambda z: torch.tanh(0.5 * z + x), torch.zeros(3, 2, dtype=F64))
    z = z_out[-1]
    torch.testing.assert_close(z, torch.tanh(0.5 * z + x), rtol=0, atol=1e-9)
    assert info["abs_lowest"].shape == info["nstep"].shape == (3,)
    z.sum().backward()
    slope = 1 - z.detach() ** 2
    torch.testing.assert_close(x.grad, slope / (1 - 0.5 * slope), rtol=1e-5, atol=1e-5)


def test_get_deq_of_several_states_and_of_wrong_options():
    z_out, _ = get_deq(f_tol=1e-6)(lambda a, b: (torch.cos(b), 0.5 * a), [torch.zeros(2, 1), torch.zeros(2, 3)[:, :1]])
    a, b = z_out[-1]
    torch.testing.assert_close(a, torch.cos(b), rtol=0, atol=1e-5)
    torch.testing.assert_close(b, 0.5 * a, rtol=0, atol=1e-5)
    for options, told in [
        ({"f_solver": "newton"}, "valid are fixed_point_iter"),
        ({"nstates": 2}, "no option nstates"),
        ({"args": {"n_states": 3}}, "no option n_states"),
        ({"indexing": [3, 5]}, "no option indexing"),
        ({"grad": [1, 2]}, "number of steps"),
    ]:
        with pytest.raises(ValueError, match=told):
            get_deq(**options)


def test_get_deq_takes_what_torchdeqs_parser_gives():
    """All of its options, with their defaults, beside those of the program."""
    given = {"f_solver": "anderson", "b_solver": "anderson", "f_max_iter": 40, "b_max_iter": 40, "f_tol": 1e-5}
    given |= {"b_tol": 1e-6, "f_stop_mode": "abs", "b_stop_mode": "abs", "eval_factor": 1.0, "eval_f_max_iter": 0}
    given |= {"core": "sliced", "ift": False, "hook_ift": False, "n_states": 1, "indexing": [], "gamma": 0.8}
    given |= {"grad": [1], "tau": 1.0, "sup_gap": -1, "sup_loc": [], "lr": 0.1}
    z_out, _ = get_deq(Namespace(**given))(torch.cos, torch.zeros(2, 1))
    torch.testing.assert_close(z_out[-1], torch.full((2, 1), 0.739085), rtol=0, atol=1e-4)
