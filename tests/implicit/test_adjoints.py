"""`adjoint=` and `solver=`: by instance or by name, one's own, and under the names that they had before."""

import dataclasses

import pytest
import torch

import deqzoo
from deqzoo import implicit
from deqzoo.implicit import (
    CG,
    EQUATION_ADJOINTS,
    GMRES,
    LBFGS,
    ODE_ADJOINTS,
    RK4,
    Anderson,
    BiCGSTAB,
    Direct,
    Discrete,
    EquationAdjoint,
    Implicit,
    ImplicitFunction,
    Neumann,
    Newton,
    ODEAdjoint,
    OneStep,
    Phantom,
    Picard,
    TorchDiffEq,
    Tsit5,
    argmin,
    fixed_point,
    make_adjoint,
    odeint,
    odeint_dense,
    odeint_event,
    root,
)
from deqzoo.nn import DEQ, MonDEQ, NeuralODE

F64 = torch.float64


def cosine(z, a):
    return torch.cos(a * z)


def residual(z, a):
    return z - torch.cos(a * z)


def objective(z, a):
    return (z - a**2) ** 2 / 2 + z**4


def decay(t, y, a):
    return -a * y


def derivative(solve, *args, **options):
    a = torch.tensor(0.7, dtype=F64, requires_grad=True)
    value = solve(*args, a, **options)
    return torch.autograd.grad(value.sum(), a)[0]


ONE = torch.ones((), dtype=F64)
SPAN = [0.0, 1.0]

BY_NAME = [  # each solve, its solver and adjoint by name, and what they stand for
    (fixed_point, (cosine, ONE), ("picard", "phantom"), (Picard(), Phantom())),
    (fixed_point, (cosine, ONE), ("anderson", Implicit("bicgstab")), (Anderson(), Implicit(BiCGSTAB()))),
    (root, (residual, ONE), ("newton", "implicit"), (Newton(), Implicit())),
    (argmin, (objective, ONE), ("lbfgs", "implicit"), (LBFGS(), Implicit(CG()))),
    (odeint, (decay, ONE, SPAN), ("rk4", "direct"), (RK4(), Direct())),
]


@pytest.mark.parametrize(("solve", "args", "names", "instances"), BY_NAME, ids=lambda x: getattr(x, "__name__", None))
def test_by_name_is_as_by_instance(solve, args, names, instances):
    first, second = ({"solver": solver, "adjoint": adjoint} for solver, adjoint in (names, instances))
    assert derivative(solve, *args, **first) == derivative(solve, *args, **second)


def test_layers_and_implicit_functions_take_names():
    cell = torch.nn.Linear(2, 2)
    deq = DEQ(lambda z, x: torch.tanh(cell(z) / 4 + x), solver="picard", adjoint="one_step")
    assert (deq.solver, deq.adjoint) == (Picard(), OneStep())
    ode = NeuralODE(lambda t, y: -y, solver="tsit5", adjoint="discrete")
    assert (ode.solver, ode.adjoint) == (Tsit5(), Discrete())
    function = ImplicitFunction(lambda a: a.sqrt(), lambda y, a: y**2 - a, linear_solver="cg")
    assert function.linear_solver == CG()
    monotone = MonDEQ(implicit_cell(), solver="peaceman_rachford")
    assert type(monotone.solver).__name__ == "PeacemanRachford"


def implicit_cell():
    from deqzoo.nn.monotone import MonotoneLinear

    return MonotoneLinear(3, 1.0)


def test_dense_output_and_events_take_names():
    y = odeint_dense(decay, ONE, SPAN, ONE, solver="dopri5", adjoint="direct")
    torch.testing.assert_close(y(0.5), torch.exp(-ONE / 2), rtol=1e-4, atol=0)
    time, _ = odeint_event(decay, ONE, [0.0, 2.0], lambda t, y, a: y - 0.5, ONE, solver="dopri5", adjoint="direct")
    torch.testing.assert_close(time, ONE.new_tensor(2.0).log(), rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: fixed_point(cosine, ONE, ONE, solver="andersen"),
            "unknown solver 'andersen'; did you mean 'anderson'",
        ),
        (lambda: fixed_point(cosine, ONE, ONE, solver="lbfgs"), "unknown solver 'lbfgs'"),
        (lambda: argmin(objective, ONE, ONE, solver="anderson"), "unknown solver 'anderson'.*gradient_descent, lbfgs"),
        (lambda: root(residual, ONE, ONE, adjoint="implict"), "unknown adjoint 'implict'; did you mean 'implicit'"),
        (lambda: Implicit("gmress"), "unknown linear solver 'gmress'; did you mean 'gmres'"),
        (lambda: odeint(decay, ONE, SPAN, ONE, solver="dopri"), "unknown ODE solver 'dopri'"),
        (lambda: odeint(decay, ONE, SPAN, ONE, adjoint="implicit"), "unknown adjoint 'implicit'.*backsolve, direct"),
        (lambda: DEQ(cosine, solver="newtons"), "unknown solver 'newtons'"),
        (lambda: NeuralODE(decay, adjoint="adjoint"), "unknown adjoint 'adjoint'"),
    ],
)
def test_an_unknown_name_lists_the_valid_ones(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@dataclasses.dataclass(frozen=True)
class LastSteps(EquationAdjoint):
    """The derivative of n more steps, halved: what no adjoint of ours gives."""

    n: int = 2

    def apply(self, problem):
        solution = problem.solve()
        z = solution.value
        for _ in range(self.n):
            z = problem.f(z, *problem.args)
        return (z + z.detach()) / 2, solution


def test_an_adjoint_of_ones_own_for_equations():
    expected = derivative(fixed_point, cosine, ONE, adjoint=Phantom(steps=2)) / 2
    assert derivative(fixed_point, cosine, ONE, adjoint=LastSteps()) == expected
    a = torch.tensor(0.7, dtype=F64, requires_grad=True)
    deq = DEQ(lambda z, x: torch.cos(a * z + x), adjoint=LastSteps())
    deq(torch.zeros(3, 1, dtype=F64)).sum().backward()
    torch.testing.assert_close(a.grad, 3 * expected, rtol=1e-3, atol=0)


@dataclasses.dataclass(frozen=True)
class FixedStart(ODEAdjoint):
    """As `Direct`, the start taken for a constant."""

    def apply(self, solve, y, t):
        return solve.on_tape(y.detach(), t)


def test_an_adjoint_of_ones_own_for_odes():
    a = torch.tensor(0.7, dtype=F64, requires_grad=True)
    y = odeint(decay, a * 1, SPAN, ONE, adjoint=FixedStart())
    assert not y.requires_grad
    assert derivative(odeint, decay, ONE, SPAN, adjoint=FixedStart()) == derivative(
        odeint, decay, ONE, SPAN, adjoint=Direct()
    )


# The names of before


def test_the_argument_gradient_is_taken_with_a_warning():
    expected = derivative(fixed_point, cosine, ONE, adjoint=OneStep())
    with pytest.warns(DeprecationWarning, match="the argument gradient is called adjoint now"):
        assert derivative(fixed_point, cosine, ONE, gradient=OneStep()) == expected
    with pytest.warns(DeprecationWarning, match="the argument gradient is called adjoint now"):
        assert DEQ(cosine, gradient=OneStep()).adjoint == OneStep()
    with pytest.raises(TypeError, match="pass the latter alone"):
        fixed_point(cosine, ONE, ONE, gradient=OneStep(), adjoint=OneStep())


@pytest.mark.parametrize(("solve", "f"), [(root, residual), (argmin, objective)])
def test_the_argument_linear_solver_is_taken_with_a_warning(solve, f):
    expected = derivative(solve, f, ONE, adjoint=Implicit(GMRES(tol=1e-3)))
    with pytest.warns(DeprecationWarning, match="the argument linear_solver is called adjoint=Implicit"):
        assert derivative(solve, f, ONE, linear_solver=GMRES(tol=1e-3)) == expected
    with pytest.raises(TypeError, match="alone"):
        solve(f, ONE, ONE, linear_solver=GMRES(), adjoint=Implicit())


def test_a_function_may_have_an_argument_called_gradient():
    z = fixed_point(lambda z, gradient: torch.cos(gradient * z), ONE, gradient=ONE / 2)
    torch.testing.assert_close(z, torch.cos(z / 2), rtol=1e-6, atol=0)


RENAMED = {
    "ADJOINTS": ODE_ADJOINTS,
    "GRADIENTS": EQUATION_ADJOINTS,
    "Gradient": EquationAdjoint,
    "make_gradient": make_adjoint,
}


@pytest.mark.parametrize("old", RENAMED)
def test_old_names_of_the_package_are_the_new_ones(old):
    with pytest.warns(DeprecationWarning, match=f"{old} is called"):
        assert getattr(implicit, old) is RENAMED[old]


def test_what_is_not_a_linear_solver():
    with pytest.raises(TypeError, match="linear_solver must be a linear solver"):
        Implicit(Newton())
    assert Implicit().linear_solver is None
    assert (
        repr(Implicit(Neumann(k=3)))
        == "Implicit(linear_solver=Neumann(tol=None, k=3, damping=1.0), share_inverse=False)"
    )


def test_all_adjoints_have_names():
    kinds = EQUATION_ADJOINTS | ODE_ADJOINTS
    assert {make_adjoint(name) for name in kinds} == {kind() for kind in kinds.values()}
    assert {"implicit", "one_step", "phantom", "reversible_iteration", "unrolled"} == set(EQUATION_ADJOINTS)
    assert {"discrete", "direct", "backsolve", "reversible"} == set(ODE_ADJOINTS)


def test_torchdiffeq_takes_adjoints_by_name():
    solver = TorchDiffEq("dopri5", rtol=1e-8, atol=1e-8)
    by_name = derivative(odeint, decay, ONE, SPAN, solver=solver, adjoint="backsolve")
    torch.testing.assert_close(by_name, derivative(odeint, decay, ONE, SPAN), rtol=1e-4, atol=0)
    assert deqzoo.odeint is odeint
