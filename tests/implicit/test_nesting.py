"""Implicit functions inside implicit functions: inner x outer x way in which the outer comes by a x mode.

Each function maps a positive vector, entry by entry, to something known in closed form, so that the exact answer is
the composition. The outer one evaluates the inner one anew in each call of its own function.
"""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, hessian, jacfwd, vmap

from deqzoo.implicit import Anderson, Dopri8, ImplicitFunction, Newton, argmin, fixed_point, odeint, root
from deqzoo.nn import DEQ, ContinuousFlow, NeuralODE

F64 = torch.float64
ODE = Dopri8(rtol=1e-8, atol=1e-9, first_step=1.0)


def ones():
    return torch.ones(2, dtype=F64)


# Each takes (read, *args): read(*args) gives the positive vector v, wherever it has it from.
def by_fixed_point(read, *args):
    return fixed_point(lambda z, *args: 0.6 * z + 0.4 * read(*args) / z, ones(), *args, solver=Anderson(tol=1e-10))


def by_root(read, *args):
    return root(lambda y, *args: y**3 - read(*args), ones(), *args, solver=Newton())


def by_argmin(read, *args):
    return argmin(lambda y, *args: (y**4 / 4 - read(*args) * y).sum(), ones(), *args)


def by_black_box(read, *args):
    def solve(*args):
        return np.sqrt(read(*args).detach().numpy())

    return ImplicitFunction(solve, lambda y, *args: y**2 - read(*args))(*args)


def by_odeint(read, *args):
    times = torch.tensor([0.0, 1.0], dtype=F64)
    return odeint(lambda t, y, *args: -read(*args) * y, ones(), times, *args, solver=ODE)[-1]


def by_deq(read, *args):
    return DEQ(lambda z, x: 0.6 * z + 0.4 * read(*x) / z, solver=Anderson(tol=1e-10), batch_dims=0)(args, ones())


def by_node(read, *args):
    return NeuralODE(lambda t, y, *args: -read(*args) * y, solver=ODE)(ones(), None, *args)


def by_flow(read, *args):
    """log density of N(0, e^2v) at x = 1 in one dimension, that of x = e^v z."""
    flow = ContinuousFlow(lambda t, x, *args: read(*(c[:, 0] for c in args)).unsqueeze(1) * x, (1,), solver=ODE)
    return -flow.log_prob(ones().unsqueeze(1), *(a.unsqueeze(1) for a in args))


EXACT = {
    by_fixed_point: torch.sqrt,
    by_root: lambda v: v ** (1 / 3),
    by_argmin: lambda v: v ** (1 / 3),
    by_black_box: torch.sqrt,
    by_odeint: lambda v: torch.exp(-v),
    by_deq: torch.sqrt,
    by_node: lambda v: torch.exp(-v),
    by_flow: lambda v: torch.exp(-2 * v) / 2 + v + math.log(2 * math.pi) / 2,
}


class Holder(nn.Module):
    """Has the vector as a parameter."""

    def __init__(self, outer, inner, a):
        super().__init__()
        self.a, self.outer, self.inner = nn.Parameter(a.clone()), outer, inner

    def forward(self):
        return self.outer(lambda: self.inner(lambda: self.a))


def black_box_of_its_argument(read):
    """What a black box reads in a transform must be among its arguments."""
    return by_black_box(lambda a: a, read())


def nested(outer, inner, way):
    """a -> outer(inner(a))."""
    if inner is by_black_box and way != "argument":
        inner = black_box_of_its_argument
    if way == "argument":
        return lambda a: outer(lambda a: inner(lambda a: a, a), a)
    if way == "captured":
        return lambda a: outer(lambda: inner(lambda: a))
    holder = Holder(outer, inner, ones())
    return lambda a: functional_call(holder, {"a": a}, ())


def loss(y):
    return (torch.sin(y) + y**3).sum()


def first_and_second(function, a):
    a = a.clone().requires_grad_()
    (first,) = torch.autograd.grad(function(a), a, create_graph=True)
    return first.detach(), torch.autograd.grad((first * (1 + first)).sum(), a)[0]


def first(function, a):
    a = a.clone().requires_grad_()
    return torch.autograd.grad(function(a), a)


def compiled(function, a):
    torch.compiler.reset()  # what other tests have compiled counts against a limit
    return first_and_second(torch.compile(function, backend="eager"), a)


MODES = {
    "backward": first,
    "double backward": first_and_second,
    "func": lambda function, a: (grad(function)(a), hessian(function)(a)),
    "forward": lambda function, a: (jacfwd(function)(a),),
    "vmap": lambda function, a: (vmap(grad(function))(torch.stack([a, a + 0.1])),),
    "compiled": compiled,
}
SOLVES_ODES = (by_odeint, by_node, by_flow)


# Each pair of the table is run in each mode and way; without ODEs by default, and with those of these pairs.
ODES_BY_DEFAULT = {(by_odeint, by_root), (by_node, by_fixed_point), (by_flow, by_black_box), (by_root, by_flow)}


def cases():
    for mode in MODES:
        for way in ("captured", "parameter", "argument"):
            if way == "argument" and mode == "compiled":
                continue  # as captured
            for outer in EXACT:
                if outer is by_black_box and way != "argument" and mode in ("func", "forward", "vmap"):
                    continue  # see test_black_box_that_captures_a_traced_tensor_raises
                for inner in EXACT:
                    odes = outer in SOLVES_ODES or inner in SOLVES_ODES
                    plain = mode in ("backward", "double backward")
                    by_default = ((outer, inner) in ODES_BY_DEFAULT if odes else way != "argument") and plain
                    by_default |= not odes and way == "captured"
                    name = f"{mode}-{way}-{outer.__name__[3:]}-of-{inner.__name__[3:]}"
                    yield pytest.param(mode, way, outer, inner, id=name, marks=[] if by_default else [pytest.mark.slow])


@pytest.mark.parametrize(("mode", "way", "outer", "inner"), list(cases()))
def test_nested(mode, way, outer, inner):
    a = torch.tensor([0.6, 1.3], dtype=F64)
    function, exact = nested(outer, inner, way), lambda a: EXACT[outer](EXACT[inner](a))
    found = MODES[mode](lambda a: loss(function(a)), a)
    expected = MODES["double backward" if mode == "compiled" else mode](lambda a: loss(exact(a)), a)
    for one, other in zip(found, expected, strict=True):
        # The solvers' default tolerances (LBFGS: 2e-12 of the first gradient) and that of the ODE solves.
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("inner", [inner for inner in EXACT if inner is not by_flow], ids=lambda f: f.__name__[3:])
@pytest.mark.parametrize("way", ["captured", "argument"])
def test_inner_function_of_the_unknown(inner, way):
    """y with inner(y) = a: the inner function captures the unknown of the outer one, or has it as its argument."""

    def function(a):
        def f(y, a):
            inside = black_box_of_its_argument if inner is by_black_box else inner
            return (inside(lambda: y) if way == "captured" else inner(lambda y: y, y)) - a

        return root(f, a.new_full((2,), 0.7), a)

    a = torch.tensor([0.6, 0.8], dtype=F64)
    y = function(a).requires_grad_()
    slope, bend = first_and_second_of(EXACT[inner], y)
    found = first(lambda a: function(a).sum(), a)[0]
    torch.testing.assert_close(found, 1 / slope, rtol=1e-6, atol=1e-7)
    (found,) = torch.autograd.grad((b := a.clone().requires_grad_(), function(b).sum())[1], b, create_graph=True)
    torch.testing.assert_close(torch.autograd.grad(found.sum(), b)[0], -bend / slope**3, rtol=1e-6, atol=1e-7)


def first_and_second_of(exact, y):
    (slope,) = torch.autograd.grad(exact(y).sum(), y, create_graph=True)
    return slope.detach(), torch.autograd.grad(slope.sum(), y)[0]


def test_black_box_that_captures_a_traced_tensor_raises():
    def function(a):
        return ImplicitFunction(lambda b: (a * b).sqrt(), lambda y, b: y**2 - a * b)(torch.tensor(2.0, dtype=F64))

    with pytest.raises(RuntimeError, match="must be among its arguments"):
        vmap(function)(torch.tensor([0.7, 0.9], dtype=F64))


@pytest.mark.parametrize("outer", [root, argmin])
def test_constants_alone_give_a_constant(outer):
    """The outer unknown, which the inner function depends on, must not pass for a tensor that needs a gradient."""

    def function(y):
        found = by_root(lambda: y) - 2
        return found if outer is root else found.square().sum()

    y = outer(function, ones())
    torch.testing.assert_close(y, 8 * ones())
    assert not y.requires_grad
