"""The tableaus satisfy the order conditions that define them."""

import pytest
import torch

from deqzoo.implicit import Rodas5P, odeint_dense
from deqzoo.implicit.ode import ODE_SOLVERS
from deqzoo.implicit.ode.stiff_tableaus import RosenbrockTableau


def tensors(tableau):
    count = len(tableau.a)
    a = torch.zeros(count, count, dtype=torch.float64)
    for i, row in enumerate(tableau.a):
        a[i, : len(row)] = torch.tensor(row, dtype=torch.float64)
    return a, torch.tensor(tableau.c, dtype=torch.float64), padded(tableau.b, count)


def padded(row, count):
    return torch.tensor([*row, *[0.0] * (count - len(row))], dtype=torch.float64)


def conditions(a, c, order):
    """Vectors phi and numbers such that b . phi = theta^p number, for all trees of up to five nodes (p of them)."""
    one = torch.ones_like(c)
    trees = {
        1: [(one, 1)],
        2: [(c, 1 / 2)],
        3: [(c**2, 1 / 3), (a @ c, 1 / 6)],
        4: [(c**3, 1 / 4), (c * (a @ c), 1 / 8), (a @ c**2, 1 / 12), (a @ a @ c, 1 / 24)],
        5: [
            (c**4, 1 / 5), (c**2 * (a @ c), 1 / 10), (c * (a @ c**2), 1 / 15), (c * (a @ a @ c), 1 / 30),
            ((a @ c) ** 2, 1 / 20), (a @ c**3, 1 / 20), (a @ (c * (a @ c)), 1 / 40), (a @ a @ c**2, 1 / 60),
            (a @ a @ a @ c, 1 / 120),
        ],
    }  # fmt: skip
    return [(p, phi, number) for p in range(1, min(order, 5) + 1) for phi, number in trees[p]]


OTHERS = "leapfrog"  # takes the parts of a pair in turn; its order is tested in tests/implicit/ode/test_leapfrog.py
RUNGE_KUTTA = [
    name for name in ODE_SOLVERS if name != OTHERS and not isinstance(ODE_SOLVERS[name].tableau, RosenbrockTableau)
]


@pytest.mark.parametrize("name", RUNGE_KUTTA)
def test_order_conditions(name):
    tableau = ODE_SOLVERS[name].tableau
    a, c, b = tensors(tableau)
    torch.testing.assert_close(a.sum(dim=1), c, rtol=0, atol=1e-13)
    for _, phi, number in conditions(a, c, tableau.order):
        assert abs(float(b @ phi) - number) < 1e-13
    if tableau.error:
        embedded = b - padded(tableau.error, len(b))
        for _, phi, number in conditions(a, c, min(tableau.error_order, 4)):
            assert abs(float(embedded @ phi) - number) < 1e-13
    if tableau.error3:
        embedded = b - padded(tableau.error3, len(b))
        for _, phi, number in conditions(a, c, 3):
            assert abs(float(embedded @ phi) - number) < 1e-13


@pytest.mark.parametrize("name", ["bosh3", "dopri5", "dopri8", "kvaerno3", "kvaerno5", "tsit5"])
@pytest.mark.parametrize("theta", [0.25, 0.7, 1.0])
def test_order_of_the_dense_output(name, theta):
    tableau = ODE_SOLVERS[name].tableau
    a, c, b = tensors(tableau)
    dense = torch.tensor(tableau.dense, dtype=torch.float64)
    weights = dense @ torch.tensor([theta ** (m + 1) for m in range(dense.shape[1])], dtype=torch.float64)
    if theta == 1.0:
        torch.testing.assert_close(weights, b, rtol=0, atol=1e-12)
    for p, phi, number in conditions(
        a, c, {"bosh3": 3, "kvaerno3": 3, "kvaerno5": 3}.get(name, 5 if name == "dopri8" else 4)
    ):
        assert abs(float(weights @ phi) - number * theta**p) < 1e-12


@pytest.mark.parametrize("name", ["kvaerno3", "kvaerno5"])
def test_kvaerno_is_l_stable(name):
    a, _, b = tensors(ODE_SOLVERS[name].tableau)
    torch.testing.assert_close(b, a[-1])  # stiffly accurate
    assert_l_stable(a, b)


def assert_l_stable(a, b):
    """By R(z) = 1 + z b (I - z a)^-1 1: bounded by 1 on the imaginary axis, and 0 at infinity."""
    one, eye = torch.ones(len(b), dtype=torch.complex128), torch.eye(len(b), dtype=torch.complex128)

    def growth(z):
        return abs((1 + z * (b.to(one.dtype) @ torch.linalg.solve(eye - z * a, one))).item())

    assert growth(-1e8) < 1e-6
    assert max(growth(1j * y) for y in torch.logspace(-3, 4, 50).tolist()) <= 1 + 1e-9


def rosenbrock(tableau):
    """alpha, beta = alpha + gamma, and the map of weights of k_i to weights of the stages of the order conditions.

    Those are f(y + h sum alpha_ij l_j) + h J sum gamma_ij l_j = l_i, so that k = Gamma l.
    """
    count = tableau.stages
    a, couplings = torch.zeros(2, count, count, dtype=torch.float64)
    for i in range(count):
        a[i, :i] = torch.tensor(tableau.a[i], dtype=torch.float64)
        couplings[i, :i] = torch.tensor(tableau.couplings[i], dtype=torch.float64)
    gamma = torch.linalg.inv(torch.eye(count, dtype=torch.float64) / tableau.gamma - couplings)
    alpha = a @ gamma
    return alpha, alpha + gamma, lambda weights: weights @ gamma


def rosenbrock_conditions(alpha, beta, order):
    """As `conditions`, after Hairer, Wanner, "Solving Ordinary Differential Equations II", table IV.7.1."""
    one = torch.ones(len(alpha), dtype=torch.float64)
    a, b = alpha @ one, beta @ one
    trees = {
        1: [(one, 1)],
        2: [(b, 1 / 2)],
        3: [(a**2, 1 / 3), (beta @ b, 1 / 6)],
        4: [(a**3, 1 / 4), (a * (alpha @ b), 1 / 8), (beta @ a**2, 1 / 12), (beta @ beta @ b, 1 / 24)],
        5: [
            (a**4, 1 / 5), (a**2 * (alpha @ b), 1 / 10), (a * (alpha @ a**2), 1 / 15), (a * (alpha @ beta @ b), 1 / 30),
            ((alpha @ b) ** 2, 1 / 20), (beta @ a**3, 1 / 20), (beta @ (a * (alpha @ b)), 1 / 40),
            (beta @ beta @ a**2, 1 / 60), (beta @ beta @ beta @ b, 1 / 120),
        ],
    }  # fmt: skip
    return [(p, phi, number) for p in range(1, order + 1) for phi, number in trees[p]]


def test_rosenbrock_conditions():
    tableau = ODE_SOLVERS["rodas5p"].tableau
    alpha, beta, weights = rosenbrock(tableau)
    one = torch.ones(len(alpha), dtype=torch.float64)
    torch.testing.assert_close(alpha @ one, torch.tensor(tableau.c, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(
        (beta - alpha) @ one, torch.tensor(tableau.slopes, dtype=torch.float64), rtol=0, atol=1e-12
    )
    b = torch.tensor(tableau.b, dtype=torch.float64)
    embedded = b - torch.tensor(tableau.error, dtype=torch.float64)
    for _, phi, number in rosenbrock_conditions(alpha, beta, 5):
        assert abs(float(weights(b) @ phi) - number) < 1e-12
    for _, phi, number in rosenbrock_conditions(alpha, beta, 4):
        assert abs(float(weights(embedded) @ phi) - number) < 1e-12
    for theta in (0.3, 0.8, 1.0):
        powers = torch.tensor([theta ** (m + 1) for m in range(4)], dtype=torch.float64)
        dense = torch.tensor(tableau.dense, dtype=torch.float64) @ powers
        for p, phi, number in rosenbrock_conditions(alpha, beta, 4):
            assert abs(float(weights(dense) @ phi) - number * theta**p) < 1e-12


def test_rodas_is_l_stable():
    _, beta, weights = rosenbrock(ODE_SOLVERS["rodas5p"].tableau)
    b = weights(torch.tensor(ODE_SOLVERS["rodas5p"].tableau.b, dtype=torch.float64))
    torch.testing.assert_close(b, beta[-1])  # stiffly accurate
    assert_l_stable(beta, b)


def test_dense_output_of_rodas5p_has_its_weights():
    """One long step of y' = -y^2: with other weights of the last stage the order is the same, the error five times."""
    start, times = torch.ones(1, dtype=torch.float64), torch.linspace(0, 0.2, 41, dtype=torch.float64)
    solver = Rodas5P(rtol=1e9, atol=1e9, first_step=0.2, max_step=0.2)
    dense = odeint_dense(lambda t, y: -(y**2), start, times[[0, -1]], solver=solver)
    assert (dense(times)[:, 0] - 1 / (1 + times)).abs().max() < 8e-6
