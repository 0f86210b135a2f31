"""The tableaus satisfy the order conditions that define them."""

import pytest
import torch

from deqzoo.implicit.ode import ODE_SOLVERS


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


@pytest.mark.parametrize("name", ODE_SOLVERS)
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


@pytest.mark.parametrize("name", ["bosh3", "dopri5", "dopri8", "kvaerno3", "tsit5"])
@pytest.mark.parametrize("theta", [0.25, 0.7, 1.0])
def test_order_of_the_dense_output(name, theta):
    tableau = ODE_SOLVERS[name].tableau
    a, c, b = tensors(tableau)
    dense = torch.tensor(tableau.dense, dtype=torch.float64)
    weights = dense @ torch.tensor([theta ** (m + 1) for m in range(dense.shape[1])], dtype=torch.float64)
    if theta == 1.0:
        torch.testing.assert_close(weights, b, rtol=0, atol=1e-12)
    for p, phi, number in conditions(a, c, {"bosh3": 3, "kvaerno3": 3}.get(name, 5 if name == "dopri8" else 4)):
        assert abs(float(weights @ phi) - number * theta**p) < 1e-12


def test_kvaerno_is_l_stable():
    a, _, b = tensors(ODE_SOLVERS["kvaerno3"].tableau)
    one, eye = torch.ones(4, dtype=torch.complex128), torch.eye(4, dtype=torch.complex128)

    def growth(z):
        return abs((1 + z * (b.to(one.dtype) @ torch.linalg.solve(eye - z * a, one))).item())

    assert growth(-1e8) < 1e-6
    assert max(growth(1j * y) for y in torch.logspace(-3, 4, 50).tolist()) <= 1 + 1e-9
