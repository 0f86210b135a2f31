"""What cannot work raises, and says what would."""

import copy

import numpy as np
import pytest
import torch
from torch.autograd import forward_ad
from torch.testing import assert_close

from deqzoo.implicit import (
    CG,
    EQUATION_ADJOINTS,
    GMRES,
    LBFGS,
    LINEAR_SOLVERS,
    MINIMIZERS,
    SOLVERS,
    Anderson,
    Broyden,
    Discrete,
    Implicit,
    ImplicitFunction,
    LinearOperator,
    Newton,
    NonConvergenceError,
    NonConvergenceWarning,
    OneStep,
    Phantom,
    Picard,
    Status,
    argmin,
    fixed_point,
    make_adjoint,
    make_solver,
    root,
)
from tests.implicit.problems import draw

ONE = torch.ones(2, dtype=torch.float64)

# Names and options


@pytest.mark.parametrize("name", [*SOLVERS, *MINIMIZERS, *LINEAR_SOLVERS])
def test_unknown_option_lists_the_valid_ones(name):
    with pytest.raises(ValueError, match=rf"'{name}' has no option maximum_iterations.*tol"):
        make_solver(name, maximum_iterations=3)


def test_unknown_solver_lists_the_valid_ones_and_guesses():
    with pytest.raises(ValueError, match=r"unknown solver 'andersen'; did you mean 'anderson'\?.*broyden.*picard"):
        make_solver("andersen")


@pytest.mark.parametrize("name", EQUATION_ADJOINTS)
def test_unknown_option_of_a_gradient(name):
    with pytest.raises(ValueError, match=rf"'{name}' has no option depth"):
        make_adjoint(name, depth=1)


def test_unknown_gradient_and_unknown_linear_solver():
    with pytest.raises(ValueError, match=r"unknown adjoint 'implict'; did you mean 'implicit'"):
        make_adjoint("implict")
    with pytest.raises(ValueError, match=r"unknown linear solver 'gmress'.*cg, dense, gmres, lsmr, minres, neumann"):
        make_adjoint("implicit", linear_solver="gmress")


def test_options_given_by_name_are_not_ignored():
    assert make_solver("anderson", tol=1e-4, max_steps=7, stop="abs") == Anderson(tol=1e-4, max_steps=7, stop="abs")
    assert make_adjoint("implicit", linear_solver="cg") == Implicit(CG())
    assert make_adjoint("phantom", steps=2, damping=0.5) == Phantom(2, 0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stop": "relative"}, "'rel', 'abs' or 'never'"),
        ({"tol": -1.0}, "tol"),
        ({"tol": float("nan")}, "tol"),
        ({"max_steps": -1}, "max_steps"),
        ({"check_every": 0}, "check_every"),
        ({"patience": 0}, "patience"),
    ],
)
@pytest.mark.parametrize("solver", [Anderson, Picard, Broyden, Newton, LBFGS], ids=lambda s: s.__name__)
def test_bad_values_of_options(solver, options, message):
    with pytest.raises(ValueError, match=message):
        solver(**options)


def test_bad_values_of_other_options():
    with pytest.raises(ValueError, match="steps"):
        Phantom(steps=0)
    with pytest.raises(ValueError, match="damping"):
        Phantom(damping=0.0)
    with pytest.raises(ValueError, match="restart"):
        GMRES(restart=0)
    with pytest.raises(ValueError, match=r"symetric.*symmetric"):
        LinearOperator.from_matrix(torch.eye(2), tags=["symetric"])


# Kinds of solvers


def test_minimiser_for_a_fixed_point_and_the_reverse():
    with pytest.raises(TypeError, match=r"LBFGS minimises: pass it to argmin"):
        fixed_point(torch.cos, ONE, solver=LBFGS())
    with pytest.raises(TypeError, match=r"LBFGS minimises: pass it to argmin"):
        root(torch.cos, ONE, solver=LBFGS())
    with pytest.raises(TypeError, match=r"Anderson does not minimise"):
        argmin(lambda y: y.square().sum(), ONE, solver=Anderson())


@pytest.mark.parametrize("solver", [Anderson, GMRES(), 3], ids=["class", "linear solver", "number"])
def test_what_is_not_a_solver(solver):
    with pytest.raises(TypeError, match="solver"):
        fixed_point(torch.cos, ONE, solver=solver)


@pytest.mark.parametrize("solve", [fixed_point, root, argmin])
@pytest.mark.parametrize("adjoint", [Implicit, GMRES(), Discrete()], ids=["class", "linear solver", "of ODEs"])
def test_what_is_not_an_adjoint(solve, adjoint):
    with pytest.raises(TypeError, match=rf"the adjoint of {solve.__name__} must be one of Implicit"):
        solve(lambda y: y.square().sum(), ONE.sum(), adjoint=adjoint)


@pytest.mark.parametrize("adjoint", [Phantom(), OneStep(), "unrolled"], ids=repr)
def test_adjoints_of_fixed_points_alone(adjoint):
    with pytest.raises(TypeError, match="the adjoint of root must be one of Implicit, got"):
        root(torch.cos, ONE, adjoint=adjoint)


# Structures


def test_function_of_another_shape_or_structure():
    with pytest.raises(ValueError, match=r"\(2,\).*got.*\(3,\)"):
        fixed_point(lambda z: torch.zeros(3), torch.zeros(2))
    with pytest.raises(ValueError, match="structure"):
        fixed_point(lambda z: (z["u"],), {"u": torch.zeros(2)})
    with pytest.raises(ValueError, match="structure"):
        root(lambda y: y.sum(), torch.zeros(2))


@pytest.mark.parametrize("gradient", [Phantom(), Implicit()], ids=repr)
def test_function_of_another_shape_at_the_solution_of_a_foreign_solver(gradient):
    with pytest.raises(ValueError, match="structure"):
        fixed_point(lambda z: z.sum(), torch.zeros(2, requires_grad=True), solver=lambda f, z: z, adjoint=gradient)


def test_condition_of_another_structure():
    a = torch.tensor([1.0, 4.0], requires_grad=True)
    with pytest.raises(ValueError, match=r"\(2,\).*\(1,\)"):
        ImplicitFunction(torch.sqrt, lambda y, a: y[:1] ** 2 - a[:1])(a)
    with pytest.raises(ValueError, match="structure"):
        ImplicitFunction(torch.sqrt, lambda y, a: [y**2 - a])(a)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_unknown_that_is_not_real(dtype):
    with pytest.raises(TypeError, match=rf"real floating point, got {dtype}"):
        fixed_point(lambda z: z, torch.ones(2, dtype=dtype))


@pytest.mark.parametrize("unknown", [{}, (), []])
def test_unknown_without_tensors(unknown):
    with pytest.raises(ValueError, match="no tensors"):
        fixed_point(lambda z: z, unknown)


@pytest.mark.parametrize("leaf", [1.0, "a", np.zeros(2)])
def test_unknown_with_other_leaves(leaf):
    with pytest.raises(TypeError, match=type(leaf).__name__):
        fixed_point(lambda z: z, {"u": torch.zeros(2), "v": leaf})


def test_black_box_that_returns_no_tensors():
    with pytest.raises(TypeError, match="must be a tensor, got str"):
        ImplicitFunction(lambda a: "one", lambda y, a: y**2 - a)(ONE)


def test_batch_axes_that_do_not_fit():
    with pytest.raises(ValueError, match="leading"):
        fixed_point(torch.cos, torch.tensor(1.0), batch_dims=1)
    with pytest.raises(ValueError, match="same leading size"):
        fixed_point(lambda z: z, (torch.zeros(2, 1), torch.zeros(3, 1)), batch_dims=1)


def test_objective_that_is_not_a_scalar():
    with pytest.raises(ValueError, match=r"one value per system.*shape \(2,\)"):
        argmin(lambda y: y**2, torch.zeros(2))
    with pytest.raises(ValueError, match=r"shape \(4,\).*shape \(\)"):
        argmin(lambda y: y.square().sum(), torch.zeros(4, 2), batch_dims=1)


def test_aux_that_is_missing():
    with pytest.raises(TypeError, match=r"must return \(y, aux\)"):
        ImplicitFunction(torch.sqrt, lambda y, a: y**2 - a, has_aux=True)(ONE)


# Failure of a solve


def never(on_failure, solver=None, **options):
    """z = z + 1 has no solution."""
    solver = Picard(max_steps=5) if solver is None else solver
    return fixed_point(lambda z: z + 1, torch.zeros(2), solver=solver, on_failure=on_failure, **options)


def test_non_convergence_is_ignored_warned_of_or_raised():
    z, solution = never("ignore", return_solution=True)
    assert solution.status == Status.MAX_STEPS
    assert torch.isfinite(z).all()
    with pytest.warns(NonConvergenceWarning, match=r"fixed point: 1 of 1 systems.*max steps.*Raise max_steps"):
        never("warn")
    with pytest.raises(NonConvergenceError, match=r"fixed point: 1 of 1 systems did not converge"):
        never("raise")


def test_default_is_to_warn():
    with pytest.warns(NonConvergenceWarning, match="root"):
        root(lambda y: y**2 + 1, torch.tensor(1.0), solver=Newton(max_steps=5))
    with pytest.warns(NonConvergenceWarning, match="argmin"):
        argmin(lambda y: y.sum(), torch.zeros(2), solver=LBFGS(max_steps=5))


def test_other_ways_to_fail():
    with pytest.raises(ValueError, match="ignore, warn, raise"):
        never("error")


def test_way_to_fail_is_checked_even_if_all_is_well():
    with pytest.raises(ValueError, match="ignore, warn, raise"):
        fixed_point(lambda z: 0.5 * z, torch.zeros(2), on_failure="error")
    with pytest.raises(ValueError, match="ignore, warn, raise"):
        ImplicitFunction(torch.sqrt, lambda y, a: y**2 - a, on_failure="error")(ONE)


def test_under_vmap_a_failure_is_not_silent():
    with pytest.raises(NonConvergenceError):
        torch.func.vmap(
            lambda a: root(lambda y: y**2 - a, torch.ones_like(a), solver=Newton(max_steps=30), on_failure="raise")
        )(torch.tensor([4.0, -1.0]))


def singular(on_failure, linear_solver=None):
    """y^2 = a at a = 0: dF/dy = 0."""
    a = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    f = ImplicitFunction(torch.sqrt, lambda y, a: y**2 - a, linear_solver=linear_solver, on_failure=on_failure)
    return f(a), a


@pytest.mark.parametrize("name", ["gmres", "dense"])
def test_singular_jacobian_is_reported(name):
    y, a = singular("raise", make_solver(name))
    with pytest.raises(NonConvergenceError, match="adjoint solve"):
        y.sum().backward()
    y, a = singular("warn", make_solver(name))
    with pytest.warns(NonConvergenceWarning, match="adjoint solve"):
        y.sum().backward()
    with pytest.raises(NonConvergenceError, match="tangent solve"):
        torch.func.jvp(lambda a: singular_of(a, name), (a.detach(),), (torch.ones_like(a),))


def singular_of(a, name):
    return ImplicitFunction(torch.sqrt, lambda y, a: y**2 - a, linear_solver=make_solver(name), on_failure="raise")(a)


def test_saddle_point_is_not_a_minimum():
    """CG says that the Hessian is not positive definite rather than returning some gradient."""
    a = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)

    def objective(y, a):
        return y[0] ** 2 - y[1] ** 2 + (a * y).sum()

    def saddle(objective, y0, a):
        return torch.stack([-a[0] / 2, a[1] / 2])

    y = argmin(objective, torch.zeros_like(a), a, solver=saddle, on_failure="raise")
    with pytest.raises(NonConvergenceError, match="bad curvature"):
        y.sum().backward()
    y = argmin(objective, torch.zeros_like(a), a, solver=saddle, adjoint=Implicit(GMRES()), on_failure="raise")
    y.sum().backward()
    assert_close(a.grad, torch.tensor([-0.5, 0.5], dtype=torch.float64))


# Tensors that a condition hides


class Hidden(torch.autograd.Function):
    """y -> y^2 - a, where `a` enters as an argument that no torch function shows."""

    @staticmethod
    def forward(y, a):
        return y**2 - a

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, g):
        y, _ = ctx.saved_tensors
        return 2 * y * g, -g

    @staticmethod
    def vmap(info, in_dims, y, a):
        return Hidden.apply(y, a), 0

    @staticmethod
    def jvp(ctx, dy, da):
        y, _ = ctx.saved_tensors
        return 2 * y * dy - da


def with_hidden(a):
    return ImplicitFunction(lambda: a.detach().sqrt(), lambda y: Hidden.apply(y, a))()


def test_hidden_tensor_to_first_order_is_right():
    a = torch.tensor([4.0, 9.0], dtype=torch.float64, requires_grad=True)
    with_hidden(a).sum().backward()
    assert_close(a.grad, 0.5 / a.detach().sqrt())


def test_hidden_tensor_to_second_order_raises():
    a = torch.tensor([4.0, 9.0], dtype=torch.float64, requires_grad=True)
    with pytest.raises(RuntimeError, match="pass that tensor as one of the arguments"):
        torch.autograd.grad(with_hidden(a).sum(), a, create_graph=True)


def test_hidden_tensor_in_forward_mode_raises():
    a = torch.tensor([4.0, 9.0], dtype=torch.float64)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(a, torch.ones_like(a))
        known = ImplicitFunction(lambda b: a.sqrt() + 0 * b, lambda y, b: Hidden.apply(y, dual) + 0 * b)
        with pytest.raises(RuntimeError, match="pass that tensor as one of the arguments"):
            known(forward_ad.make_dual(a.clone(), torch.ones_like(a)))


@pytest.mark.parametrize("transform", ["grad", "jacrev", "jacfwd", "vmap of grad"])
def test_tensor_hidden_in_a_transform_of_the_condition_raises(transform):
    """torch.func.grad hides the arguments that it is given; a captured one must not be lost."""
    transforms = {
        "grad": torch.func.grad,
        "jacrev": torch.func.jacrev,
        "jacfwd": torch.func.jacfwd,
        "vmap of grad": lambda f: torch.func.vmap(torch.func.grad(f)),
    }

    def cube_root(a):
        def conditions(y):
            return torch.func.grad(lambda y, b: y**4 / 4 - b * y)(y, a)

        return ImplicitFunction(lambda: torch.tensor(2.0, dtype=torch.float64), conditions)()

    a = torch.full((2,) if transform == "vmap of grad" else (), 8.0, dtype=torch.float64)
    try:
        found, refusal = transforms[transform](cube_root)(a), ""
    except RuntimeError as error:
        found, refusal = None, str(error)
    if found is None:
        assert "pass that tensor as one of the arguments" in refusal
    else:
        assert_close(found, torch.full_like(a, 1 / 12))


def test_argument_through_a_custom_function_is_not_hidden():
    """The mend that the message names: as an argument, by position, it is found whatever the condition does with it."""
    a = torch.tensor([4.0, 9.0], dtype=torch.float64, requires_grad=True)
    y = ImplicitFunction(torch.sqrt, Hidden.apply)(a)
    (slope,) = torch.autograd.grad(y.sum(), a, create_graph=True)
    assert_close(slope.detach(), 0.5 / a.detach().sqrt())
    (curvature,) = torch.autograd.grad(slope.sum(), a)
    assert_close(curvature, -0.25 * a.detach() ** -1.5)


def test_a_solver_that_fails_leaves_nothing_behind():
    """An exception inside f passes through, and the next call works."""
    calls = []

    def f(z):
        calls.append(1)
        if len(calls) == 3:
            raise KeyError("from inside f")
        return 0.5 * torch.cos(z)

    with pytest.raises(KeyError, match="from inside f"):
        torch.func.vmap(lambda z0: fixed_point(f, z0))(draw(2, 2))
    assert torch.is_grad_enabled()
    x = draw(2).requires_grad_()
    assert fixed_point(lambda z, x: 0.5 * torch.cos(z) + x, torch.zeros_like(x), x).requires_grad


def test_options_are_frozen():
    solver = copy.copy(Anderson())
    with pytest.raises(AttributeError):
        solver.tol = 1.0
