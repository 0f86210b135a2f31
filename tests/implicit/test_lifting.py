"""Which captured tensors are found: by the tape, where it ends in parameters, else by watching each function."""

import pytest
import torch
from torch import nn

from deqzoo.implicit import fixed_point, lifting
from deqzoo.implicit.lifting import lift

F64 = torch.float64


def scenes():
    """Name -> (condition of (leaves, arguments), arguments, what it captures, whether the tape alone tells that)."""
    torch.manual_seed(0)
    layer = nn.Linear(3, 3, dtype=F64)
    leaf, root = (torch.randn(3, dtype=F64, requires_grad=True) for _ in range(2))
    made = root.exp()
    one, other = root.repeat(2).split(3)
    unused = nn.Parameter(torch.ones(3, dtype=F64))

    def with_a_leaf_of_its_own(y, args):
        slot = y[0].detach().requires_grad_()
        (gradient,) = torch.autograd.grad((layer(slot) ** 2).sum(), slot, create_graph=True)
        return (gradient + y[0],)

    return {
        "nothing": (lambda y, args: (y[0] * args[0],), (leaf,), [], True),
        "a module": (lambda y, args: (layer(y[0]) + args[0],), (leaf,), [layer.weight, layer.bias], True),
        "an argument too": (lambda y, args: (layer(y[0]) * args[0],), (layer.weight[0],), [*layer.parameters()], True),
        "a parameter as argument": (lambda y, args: (layer(y[0]),), (layer.weight,), [layer.bias], True),
        "one that is not read": (lambda y, args: (y[0] + 0 * args[0] + unused.detach(),), (leaf,), [], True),
        "a leaf": (lambda y, args: (y[0] * leaf,), (root,), [leaf], False),
        "one with a tape": (lambda y, args: (y[0] * made * args[0],), (leaf,), [made], False),
        "what an argument is made of": (lambda y, args: (y[0] * args[0] * root,), (made,), [root], False),
        "the other half": (lambda y, args: (y[0] * args[0] * other,), (one,), [other], False),
        "a leaf of its own": (with_a_leaf_of_its_own, (leaf,), [*layer.parameters()], False),
    }


@pytest.mark.parametrize("scene", scenes())
def test_captured_tensors_are_found(scene, monkeypatch):
    condition, args, captured, by_the_tape = scenes()[scene]
    watched, watch = [], lifting._Watch
    monkeypatch.setattr(lifting, "_Watch", lambda: watched.append(True) or watch())
    y = torch.randn(3, dtype=F64, requires_grad=True)
    lifted, value = lift(condition, (y.view_as(y),), args)
    assert {id(t) for t in lifted.inputs[len(args) :]} == {id(t) for t in captured}
    assert bool(watched) != by_the_tape
    assert torch.equal(value[0], condition((y,), args)[0])
    others = tuple(torch.randn_like(t) for t in lifted.inputs)  # and they are replaced
    replaced = lifted((y,), others)[0]
    assert captured == [] or not torch.equal(replaced, lifted((y,), (*others[: len(args)], *captured))[0])


def test_second_derivative_in_the_parameters_of_a_module():
    """z = tanh(W z / 4 + b): Hessian-vector product in (W, b) against the unrolled iteration."""
    torch.manual_seed(0)
    layer = nn.Linear(3, 3, dtype=F64)
    vectors = [torch.randn_like(p) for p in layer.parameters()]

    def f(z):
        return torch.tanh(layer(z) / 4)

    def product(z):
        first = torch.autograd.grad((z**2).sum(), list(layer.parameters()), create_graph=True)
        return torch.autograd.grad(first, list(layer.parameters()), vectors)

    z0 = torch.zeros(3, dtype=F64)
    found = product(fixed_point(f, z0))
    z = z0
    for _ in range(60):
        z = f(z)
    for ours, unrolled in zip(found, product(z), strict=True):
        torch.testing.assert_close(ours, unrolled, rtol=1e-8, atol=1e-10)
