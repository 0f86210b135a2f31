"""Contractive cells under `torch.func`, differentiated twice, exported and compiled."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, hessian, jvp, vmap

from deqzoo.implicit import GMRES, Implicit, Picard
from deqzoo.nn import DEQ, ContractiveConvCell, ContractiveLinearCell

F64 = torch.float64
SHARP = {"solver": Picard(tol=1e-13, max_steps=500), "adjoint": Implicit(GMRES(tol=1e-13))}


@pytest.fixture(params=["written out", "circulant", "dense"])
def make(request, monkeypatch):
    """A cell in eval mode, float64, of each bound."""
    if request.param == "circulant":
        monkeypatch.setattr("deqzoo.nn.contractive.WRITTEN_OUT", 0)
    torch.manual_seed(0)
    return lambda: (ContractiveLinearCell(6) if request.param == "dense" else ContractiveConvCell(2, (4, 3))).eval()


@pytest.fixture
def layer(make):
    """An equilibrium, its loss as a function of its parameters and input, and both of these."""
    deq = DEQ(make().double(), **SHARP).eval()
    state = dict(deq.named_parameters())
    tensors = {name: p.detach().clone() for name, p in state.items()}
    x = torch.randn(3, *deq.cell.state, dtype=F64)

    def loss(parameters, x):
        return functional_call(deq, parameters, (x,)).sin().sum()

    return loss, tensors, x


def on_tape(loss, tensors, x, create_graph=False):
    leaves = {name: t.clone().requires_grad_() for name, t in tensors.items()}
    found = torch.autograd.grad(loss(leaves, x), list(leaves.values()), create_graph=create_graph)
    return leaves, dict(zip(leaves, found, strict=True))


def test_grad_and_jvp_are_the_derivatives_of_the_tape(layer):
    loss, tensors, x = layer
    _, expected = on_tape(loss, tensors, x)
    torch.testing.assert_close(grad(loss)(tensors, x), expected)
    for name, gradient in expected.items():
        along = torch.randn_like(gradient)
        _, slope = jvp(lambda t, name=name: loss({**tensors, name: t}, x), (tensors[name],), (along,))
        torch.testing.assert_close(slope, (gradient * along).sum())


def test_vmap_over_samples_and_over_ensembles(layer):
    loss, tensors, x = layer
    _, expected = on_tape(loss, tensors, x)
    each = vmap(grad(lambda p, x: loss(p, x[None])), in_dims=(None, 0))(tensors, x)
    torch.testing.assert_close({name: t.sum(0) for name, t in each.items()}, expected)
    others = {name: t + 0.3 * torch.randn_like(t) for name, t in tensors.items()}
    both = {name: torch.stack([t, others[name]]) for name, t in tensors.items()}
    torch.testing.assert_close(vmap(loss, (0, None))(both, x), torch.stack([loss(tensors, x), loss(others, x)]))


def test_second_derivatives_are_those_of_finite_differences(layer):
    """The bound's own second derivative is a part of them."""
    loss, tensors, x = layer
    leaves, gradient = on_tape(loss, tensors, x, create_graph=True)
    weights = {name: torch.randn_like(t) for name, t in tensors.items()}
    total = sum((gradient[name] * weights[name]).sum() for name in tensors)
    second = dict(zip(leaves, torch.autograd.grad(total, list(leaves.values())), strict=True))
    nested = grad(lambda p: sum((g * weights[name]).sum() for name, g in grad(loss)(p, x).items()))(tensors)
    torch.testing.assert_close(nested, second, rtol=1e-7, atol=1e-9)
    for name, t in tensors.items():
        along, step, values = torch.randn_like(t), 1e-5, []
        for sign in (1, -1):
            _, found = on_tape(loss, {**tensors, name: t + sign * step * along}, x)
            values.append(sum((found[key] * weights[key]).sum() for key in tensors))
        difference = (values[0] - values[1]) / (2 * step)
        torch.testing.assert_close((second[name] * along).sum(), difference, rtol=1e-6, atol=1e-8)


def test_forward_mode_over_reverse_mode(layer):
    loss, tensors, x = layer
    name = "cell.kernel"
    along = torch.randn_like(tensors[name])

    def along_a_line(t):
        return loss({**tensors, name: tensors[name] + t * along}, x)

    start = torch.zeros((), dtype=F64)
    slopes = [grad(along_a_line)(start + step) for step in (1e-5, -1e-5)]
    torch.testing.assert_close(hessian(along_a_line)(start), (slopes[0] - slopes[1]) / 2e-5, rtol=1e-6, atol=1e-8)


def test_a_bound_found_under_inference_mode_serves_gradients(layer, make):
    loss, tensors, x = layer
    _, expected = on_tape(loss, tensors, x)
    deq = DEQ(make().double(), **SHARP).eval()
    with torch.inference_mode():
        deq.load_state_dict(tensors, strict=False)
        deq(x)
    deq(x).sin().sum().backward()
    torch.testing.assert_close({name: p.grad for name, p in deq.named_parameters()}, expected)


class Weight(nn.Module):
    """The cell's W as an output, which is what is exported of it."""

    def __init__(self, cell):
        super().__init__()
        self.cell = cell

    def forward(self, x):
        return self.cell.prepare(x)


@torch.no_grad()
def test_an_exported_layer_is_the_layer_with_a_bound_that_holds_for_other_weights_too(make):
    deq = DEQ(make(), solver=Picard(max_steps=20, stop="never")).eval()
    x = torch.randn(2, *deq.cell.state)
    with pytest.raises(RuntimeError, match="evaluate it in eval mode, then export"):
        torch.export.export(deq, (x,))
    expected = deq(x)
    torch.testing.assert_close(torch.export.export(deq, (x,)).module()(x), expected)

    program = torch.export.export(Weight(deq.cell), (x,)).module()
    assert torch.equal(program(x), deq.cell.weight())
    for size in (0.01, 1.0):
        other = copy.deepcopy(deq.cell)
        other.kernel.add_(size * torch.randn_like(other.kernel))
        program.load_state_dict(Weight(other).state_dict())
        ratio = (program(x).norm() / other.weight().norm()).item()  # they are multiples of one kernel
        assert ratio <= 1 + 1e-5
        assert size == 1.0 or ratio > 0.8


@torch.no_grad()
def test_a_bound_of_another_moment_is_not_exported(make):
    cell = make()
    x = torch.randn(2, *cell.state)
    cell.prepare(x)
    for change in (lambda: cell.train().prepare(x), lambda: cell.half()):
        torch.export.export(Weight(cell), (x,))
        change()
        with pytest.raises(RuntimeError, match="not known yet"):
            torch.export.export(Weight(cell.eval()), (x,))
        cell.prepare(x)


@pytest.mark.parametrize("training", [True, False])
def test_a_compiled_layer_follows_the_weights(training):
    torch._dynamo.reset()
    torch.manual_seed(0)
    plain = DEQ(ContractiveConvCell(2, (4, 3)), solver=Picard(tol=1e-6, max_steps=100)).train(training)
    copied = copy.deepcopy(plain)
    compiled = torch.compile(copied, backend="aot_eager")
    x = torch.randn(2, *plain.cell.state)
    for _ in range(3):
        outputs = []
        for layer, deq in ((plain, plain), (compiled, copied)):
            output = layer(x)
            output.square().mean().backward()
            outputs.append((output, *(p.grad.clone() for p in deq.parameters())))
            torch.optim.SGD(deq.parameters(), 0.05).step()
        torch.testing.assert_close(outputs[1], outputs[0])
