"""Layers whose parameters are in half precision: they work, or say at once that they do not."""

import pytest
import torch

import deqzoo
from deqzoo.nn import DEQ, ContinuousFlow, MLPDynamics, MonDEQ, MonotoneLinear, NeuralODE
from deqzoo.nn.cells import PlainConvCell

HALF = [torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", HALF)
def test_a_deq_solves_for_its_state_in_float32(dtype):
    torch.manual_seed(0)
    deq, x = DEQ(PlainConvCell(8), on_failure="ignore").eval(), torch.rand(2, 8, 4, 4)
    exact = deq(x).detach()
    deq.to(dtype)
    given = []
    deq.cell.register_forward_pre_hook(lambda cell, inputs: given.append(inputs[0].dtype))
    z = deq(x.to(dtype))
    assert z.dtype == dtype
    assert set(given) == {dtype}
    torch.testing.assert_close(z.float(), exact, rtol=0, atol=8 * torch.finfo(dtype).eps)
    z.sum().backward()
    grads = [parameter.grad for parameter in deq.parameters()]
    assert all(grad.dtype == dtype and grad.isfinite().all() and grad.any() for grad in grads)


@pytest.mark.parametrize("dtype", HALF)
def test_a_neural_ode_solves_for_its_state_in_float32(dtype):
    torch.manual_seed(0)
    layer, y = NeuralODE(MLPDynamics(3)), torch.rand(4, 3)
    exact = layer(y).detach()
    layer.to(dtype)
    end = layer(y.to(dtype))
    assert end.dtype == dtype
    torch.testing.assert_close(end.float(), exact, rtol=0, atol=8 * torch.finfo(dtype).eps)
    assert layer(y.to(dtype), torch.linspace(0, 1, 3)).dtype == dtype
    end.sum().backward()
    assert all(parameter.grad.dtype == dtype and parameter.grad.any() for parameter in layer.parameters())


@pytest.mark.parametrize("dtype", HALF)
def test_other_layers_refuse_before_anything_is_changed(dtype):
    for layer in (MonDEQ(MonotoneLinear(4)), ContinuousFlow(MLPDynamics(2), (2,)).flow):
        with pytest.raises(TypeError, match=r"has no half precision: .* under torch\.autocast"):
            layer.to(dtype)
        assert {parameter.dtype for parameter in layer.parameters()} == {torch.float32}
        assert layer.double()


def test_a_loaded_entry_in_half_precision_predicts_the_same():
    images = torch.rand(8, 1, 8, 8)
    exact = deqzoo.load("deq_digits")(images)
    half = deqzoo.load("deq_digits", dtype=torch.float16)(images.half())
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), exact, rtol=0, atol=0.02)
    with pytest.raises(deqzoo.CheckpointError, match="cnf_moons: FlowODE has no half precision"):
        deqzoo.load("cnf_moons", dtype=torch.float16)
