"""Divergence, kinetic energy and Jacobian norm of a field, against its dense Jacobian."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deqzoo.nn.divergence import DensityDynamics, jacobian_products, probes, start

F64 = torch.float64
ALL = ["log_density", "kinetic", "jacobian"]


def field(t, y):
    """Of any shape: each value depends on all of its sample."""
    flat = y.flatten(1)
    weight = torch.linspace(-1, 1, flat.shape[1] ** 2, dtype=y.dtype).view(flat.shape[1], -1)
    return ((t + flat @ weight).sin() * 2 + flat).view(y.shape)


@settings(max_examples=15)
@given(shape=st.lists(st.integers(1, 3), min_size=1, max_size=3), batch=st.integers(1, 4))
def test_rates_are_those_of_the_dense_jacobian(shape, batch):
    y, t = torch.randn(batch, *shape, dtype=F64), torch.tensor(0.3, dtype=F64)
    size = y[0].numel()
    jacobian = torch.stack(
        [torch.func.jacrev(lambda y: field(t, y[None])[0])(sample).reshape(size, size) for sample in y]
    )
    rates = DensityDynamics(field)(t, start(y, ALL), probes(y))
    torch.testing.assert_close(rates["y"], field(t, y))
    torch.testing.assert_close(rates["log_density"], -jacobian.diagonal(dim1=1, dim2=2).sum(1))
    torch.testing.assert_close(rates["kinetic"], field(t, y).square().flatten(1).mean(1))
    torch.testing.assert_close(rates["jacobian"], jacobian.square().sum((1, 2)) / size)


@pytest.mark.parametrize("divergence", ["gaussian", "rademacher"])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_random_probes_have_unit_covariance(divergence, dtype):
    y = torch.zeros(20_000, 2, dtype=dtype)
    v = probes(y, divergence, torch.Generator().manual_seed(0))
    assert v.shape == (1, 20_000, 2)
    assert v.dtype == dtype
    torch.testing.assert_close(v[0].T @ v[0] / len(y), torch.eye(2, dtype=dtype), atol=0.05, rtol=0)
    assert torch.equal(v, probes(y, divergence, torch.Generator().manual_seed(0)))


def test_products_from_the_left_by_reverse_mode():
    y, v = torch.randn(4, 3, dtype=F64), torch.randn(2, 4, 3, dtype=F64)
    value, products = jacobian_products(field, torch.tensor(0.1, dtype=F64), y, v)
    torch.testing.assert_close(value, field(0.1, y))
    jacobian = torch.func.vmap(torch.func.jacrev(lambda y: field(0.1, y[None])[0]))(y)
    torch.testing.assert_close(products, torch.einsum("kbi,bij->kbj", v, jacobian))


def test_a_state_alone_needs_no_products():
    assert set(DensityDynamics(field)(torch.tensor(0.0), start(torch.zeros(2, 2), ()), torch.zeros(0))) == {"y"}
    with pytest.raises(ValueError, match="divergence=hutch is unknown; valid are exact, gaussian, rademacher"):
        probes(torch.zeros(1, 1), "hutch")
