"""How users call: keyword arguments, NumPy results, aux, modules as arguments, operations in place, tracing."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from deqzoo.implicit import (
    LBFGS,
    RK4,
    Anderson,
    Discrete,
    ImplicitFunction,
    NonConvergenceError,
    NonConvergenceWarning,
    Picard,
    Tsit5,
    argmin,
    fixed_point,
    odeint,
    odeint_dense,
    odeint_event,
    root,
)
from deqzoo.nn import DEQ

# ruff: noqa: B023, E731  (functions made in a loop are called in it; short ones read best where they are used)

F64 = torch.float64


def vector(*values):
    return torch.tensor(values, dtype=F64, requires_grad=True)


def ones(n=2):
    return torch.ones(n, dtype=F64)


# --- keyword arguments


def test_keyword_arguments_of_f_get_their_gradients():
    for solve in (
        lambda a, b: fixed_point(lambda z, a, *, b: 0.6 * z + 0.4 * a * b / z, ones(), a, b=b),
        lambda a, b: root(lambda y, a, *, b: y**2 - a * b, ones(), a, b=b),
        lambda a, b: argmin(lambda y, a, *, b: (y**3 / 3 - a * b * y).sum(), ones(), a, b=b),
        lambda a, b: ImplicitFunction(lambda a, *, b: (a * b).sqrt(), lambda y, a, *, b: y**2 - a * b)(a, b=b),
    ):
        a, b = vector(2.0, 3.0), vector(0.5, 0.7)
        y = solve(a, b)
        torch.testing.assert_close(y, (a * b).sqrt())
        torch.testing.assert_close(torch.autograd.grad(y.sum(), b)[0], (a / b).sqrt().detach() / 2)


@pytest.mark.parametrize("several", [False, True])
def test_keyword_arguments_of_a_dense_solution_and_of_events(several):
    """y' = -r y from 1 is exp(-r t), and c at log(1 / c) / r."""
    r, c = vector(0.5)[0], vector(0.7)[0]
    solver = Tsit5(rtol=1e-9, atol=1e-11)
    y = odeint_dense(lambda t, y, *, r: {"y": -r * y["y"]}, {"y": ones(1)[0]}, [0.0, 1.0], r=r, solver=solver)(0.5)["y"]
    torch.testing.assert_close(y, (-r / 2).exp())
    torch.testing.assert_close(torch.autograd.grad(y, r)[0], -(-r / 2).exp().detach() / 2)
    event = lambda t, y, *, r, c: y["y"] - c
    time, y = odeint_event(
        lambda t, y, *, r, c: {"y": -r * y["y"]}, {"y": ones(1)[0]}, [0.0, 9.0], [event, event] if several else event,
        r=r, c=c, solver=solver,
    )  # fmt: skip
    exact = -c.log() / r
    torch.testing.assert_close(time, exact)
    for found, right in zip(*(torch.autograd.grad(x, [r, c]) for x in (time, exact)), strict=True):
        torch.testing.assert_close(found, right)
    with pytest.raises(TypeError, match="takes 'scans'; the options of odeint_event are solver, adjoint, direction"):
        odeint_event(lambda t, y: -y, ones(1), [0.0, 1.0], lambda t, y: y[0] - 0.5, scans=3)


def test_word_that_is_neither_an_option_nor_of_f_is_an_error_that_lists_the_options():
    with pytest.raises(TypeError, match="takes 'max_iter'; the options of root are solver, adjoint"):
        root(lambda y: y**2 - 2, ones(), max_iter=3)


# --- results of a black box


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_black_box_of_numpy(dtype):
    """A dictionary of an array read backwards and of a Python number; the solver uses its array again."""
    scratch = np.empty(3)

    def solve(a):
        scratch[:] = np.sqrt(a.detach().numpy())
        return {"roots": scratch.astype(a.numpy().dtype)[::-1], "mean": float(a.mean())}

    def conditions(y, a):
        return {"roots": y["roots"] ** 2 - a.flip(0), "mean": y["mean"] - a.mean()}

    a = torch.tensor([1.5, 2.5, 4.0], dtype=dtype, requires_grad=True)
    y = ImplicitFunction(solve, conditions)(a)
    scratch[:] = 0
    assert y["roots"].dtype == y["mean"].dtype == dtype
    torch.testing.assert_close(y["roots"], a.sqrt().flip(0))
    gradient = torch.autograd.grad(y["roots"][0] + y["mean"], a)[0]
    torch.testing.assert_close(gradient, a.new_tensor([1 / 3, 1 / 3, 1 / 3 + 0.25]))


def test_solver_of_numpy_for_root():
    a = vector(2.0, 5.0)
    y = root(lambda y, a: y**2 - a, ones(), a, solver=lambda f, y0, a: np.sqrt(a.numpy()))
    torch.testing.assert_close(torch.autograd.grad(y.sum(), a)[0], 0.5 / a.detach().sqrt())


@pytest.mark.parametrize("off", [0.9, 1.02, float("nan")])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_black_box_that_does_not_solve_is_told(off, size):
    function = ImplicitFunction(lambda a: size * off * a.sqrt(), lambda y, a: (y / size) ** 2 - a)
    with pytest.warns(NonConvergenceWarning, match="does not meet the conditions"):
        function(vector(4.0, 9.0))
    function.on_failure = "raise"
    with pytest.raises(NonConvergenceError, match="does not meet the conditions"):
        torch.func.vmap(torch.func.grad(function))(torch.tensor([4.0, 9.0], dtype=F64))


def test_solver_of_ones_own_that_does_not_solve_is_told():
    with pytest.warns(NonConvergenceWarning, match="1 of 2 systems"):
        root(
            lambda y, a: y**2 - a,
            ones().unsqueeze(1),
            vector(1.0, 4.0).unsqueeze(1),
            solver=lambda f, y0, a: y0,
            batch_dims=1,
        )
    with pytest.warns(NonConvergenceWarning, match="does not meet the conditions"):
        argmin(lambda y, a: ((y - a) ** 2).sum(), ones(), vector(1.0, 4.0), solver=lambda f, y0, a: y0)


@pytest.mark.parametrize("size", [1e-8, 1.0, 1e8])
def test_black_box_that_solves_is_not_told(size):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for off in (1.0, 1 + 1e-5):
            ImplicitFunction(lambda a, off=off: off * a.sqrt() * size, lambda y, a: 1e3 * ((y / size) ** 2 - a))(
                vector(4.0, 9.0)
            )
        ImplicitFunction(lambda a: 0 * a, lambda y, a: size * (y - 0 * a))(vector(4.0, 9.0))  # a solution at zero


# --- aux


def test_aux_of_an_objective():
    x = vector(1.0, 3.0)
    objective = lambda y, x: (((y - x) ** 2).sum(), {"double": 2 * y, "name": "mean"})
    start = torch.zeros((), dtype=F64)
    y, aux, solution = argmin(objective, start, x, has_aux=True, return_solution=True)
    assert aux["name"] == "mean"
    assert bool(solution.converged)
    torch.testing.assert_close(torch.autograd.grad(aux["double"], x, retain_graph=True)[0], ones())
    torch.testing.assert_close(torch.autograd.grad(y, x)[0], ones() / 2)
    torch.testing.assert_close(argmin(objective, start, x, has_aux=True, solver=LBFGS())[0], y)


def test_aux_under_vmap():
    def solve(x):
        return x.sqrt(), {"steps": 3, "twice": 2 * x, "name": "sqrt"}

    function = ImplicitFunction(solve, lambda y, x: y**2 - x, has_aux=True)
    x = torch.tensor([4.0, 9.0], dtype=F64)
    seen = []
    y, twice = torch.func.vmap(lambda x: (*(seen.append(function(x)[1]), function(x)[0])[1:], 2 * x))(x)
    torch.testing.assert_close((y, twice), (x.sqrt(), 2 * x))
    assert seen[0]["steps"] == 3
    assert seen[0]["name"] == "sqrt"


def test_aux_that_differs_between_the_indices_of_vmap_is_an_error():
    function = ImplicitFunction(lambda x: (x.sqrt(), float(x)), lambda y, x: y**2 - x, has_aux=True)
    with pytest.raises(TypeError, match=r"in y or in aux, must be a tensor"):
        torch.func.vmap(lambda x: function(x)[0])(torch.tensor([4.0, 9.0], dtype=F64))


# --- modules and checkpoints


@pytest.mark.parametrize("create_graph", [False, True])
def test_module_as_an_argument(create_graph):
    layer, x = nn.Linear(3, 3).double(), torch.randn(2, 3, dtype=F64, requires_grad=True)
    layer.weight.data *= 0.3
    wanted = (*layer.parameters(), x)

    def gradients(solve):
        found = torch.autograd.grad((solve() ** 2).sum(), wanted, create_graph=create_graph)
        return torch.autograd.grad((found[0] ** 2).sum(), wanted) if create_graph else found

    def map_of(z, layer, x):
        return torch.tanh(layer(z) + x)

    def unrolled():
        z = torch.zeros_like(x)
        for _ in range(60):
            z = map_of(z, layer, x)
        return z

    solves = (
        lambda: fixed_point(map_of, torch.zeros_like(x), layer, x, batch_dims=1),
        lambda: root(lambda z, layer, x: z - map_of(z, layer, x), torch.zeros_like(x), layer, x, batch_dims=1),
    )
    for solve in solves:
        for one, other in zip(gradients(solve), gradients(unrolled), strict=True):
            torch.testing.assert_close(one, other)


def test_checkpoint_inside_a_field_and_a_cell_to_second_order():
    layer, x = nn.Linear(3, 3).double(), torch.randn(2, 3, dtype=F64, requires_grad=True)
    layer.weight.data *= 0.3
    plain = lambda z, x: torch.tanh(layer(z) + x)
    kept = lambda z, x: checkpoint(plain, z, x, use_reentrant=False)

    def second(solve):
        (first,) = torch.autograd.grad((solve() ** 2).sum(), x, create_graph=True)
        return torch.autograd.grad((first**2).sum(), (layer.weight, x))

    for solve in (
        lambda f: DEQ(f, solver=Anderson(tol=1e-12))(x),
        lambda f: odeint(lambda t, y, x: f(y, x), torch.zeros_like(x), [0.0, 1.0], x, solver=RK4(step_size=0.25))[-1],
    ):
        one, other = second(lambda: solve(kept)), second(lambda: solve(plain))
        torch.testing.assert_close(one, other)


# --- in place, tracing


IN_PLACE = {
    "inplace=True": lambda z: nn.functional.relu(z, inplace=True) * 0.5,
    "index": lambda z: z.index_fill_(0, torch.tensor([0]), 1.0) * 0.5,
    "out=": lambda z: torch.mul(z, 0.5, out=z),
}


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("name", IN_PLACE)
def test_operation_in_place_is_an_error_that_names_the_mend(name, grad):
    f, z0 = IN_PLACE[name], torch.randn(4, 3, dtype=F64)
    solves = (
        lambda: fixed_point(lambda z: f(z) + 1, z0, batch_dims=1),
        lambda: fixed_point(lambda z: f(z) + 1, z0, solver=Picard(stop="never", max_steps=5)),
        lambda: root(lambda z: f(z) - 1, z0),
        lambda: odeint(lambda t, z: f(z), z0, [0.0, 1.0], adjoint=Discrete()),
        lambda: DEQ(lambda z, x: f(z) + x)(z0),
    )
    for solve in solves:
        with torch.set_grad_enabled(grad), pytest.raises(RuntimeError, match="in-place"):
            solve()


def test_operation_in_place_under_inference_mode_does_no_harm():
    right = fixed_point(lambda z: 0.5 * torch.relu(z) + 1, torch.zeros(3))
    with torch.inference_mode():
        z = fixed_point(lambda z: nn.functional.relu(z, inplace=True) * 0.5 + 1, torch.zeros(3))
        y = odeint(lambda t, y: -y.mul_(1.0), torch.ones(3), [0.0, 1.0])
    torch.testing.assert_close(z.clone(), right)
    torch.testing.assert_close(y[-1].clone(), torch.full((3,), 0.36788), rtol=1e-4, atol=0)


def test_operation_in_place_on_a_copy_is_right():
    z = fixed_point(lambda z: z.clone().relu_() * 0.5 + 1, torch.zeros(3))
    torch.testing.assert_close(z, torch.full((3,), 2.0))


@pytest.mark.parametrize("solve", [fixed_point, root], ids=lambda s: s.__name__)
def test_linearize_is_refused_by_name(solve):
    function = lambda x: solve(lambda z, x: torch.cos(x * z) - z * (solve is root), ones(), x)
    with pytest.raises(RuntimeError, match=r"use torch\.func\.jvp in place of linearize"):
        torch.func.linearize(function, ones())
