"""Muon against torch's on matrices, and what is its own: kernels, batches of a shape, groups of SGD."""

import copy

import pytest
import torch
from torch import nn

from deqzoo.models.common.muon import Muon, orthogonalized


def trained(parameters, make, steps=4):
    """Copies of the parameters after some steps with the same gradients."""
    parameters = [nn.Parameter(p.detach().clone()) for p in parameters]
    optimizer = make(parameters)
    for step in range(steps):
        for i, p in enumerate(parameters):
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(100 * step + i))
        optimizer.step()
    return [p.detach() for p in parameters]


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (5, 5)])
def test_it_is_torchs_on_matrices(shape):
    start = [torch.randn(shape, generator=torch.Generator().manual_seed(1))]
    options = {"lr": 0.1, "momentum": 0.6, "weight_decay": 0.05}
    ours = trained(start, lambda p: Muon(p, steps=3, **options))[0] - start[0]
    theirs = trained(start, lambda p: torch.optim.Muon(p, ns_steps=3, **options))[0] - start[0]
    # torch's iteration runs in bfloat16, of eps 8e-3.
    assert (ours - theirs).norm() < 0.02 * theirs.norm()


def test_the_update_has_the_singular_vectors_of_the_momentum_and_values_near_one():
    matrix = torch.randn(1, 6, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    u, _, vh = torch.linalg.svd(matrix[0], full_matrices=False)
    middle = u.T @ orthogonalized(matrix)[0] @ vh.T
    torch.testing.assert_close(middle, middle.diagonal().diag(), atol=1e-12, rtol=0)
    assert bool(((middle.diagonal() > 0.6) & (middle.diagonal() < 1.3)).all())


def test_kernels_of_one_shape_taken_together_are_as_each_alone():
    kernels = [torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    together = trained(kernels, lambda p: Muon(p, lr=0.1))
    for i, kernel in enumerate(kernels):
        alone = nn.Parameter(kernel.clone())
        optimizer = Muon([alone], lr=0.1)
        for step in range(4):
            alone.grad = torch.randn(kernel.shape, generator=torch.Generator().manual_seed(100 * step + i))
            optimizer.step()
        torch.testing.assert_close(together[i], alone.detach())


def test_unit_rows_make_the_size_of_a_kernel_irrelevant():
    kernel = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))

    def make(p):
        return Muon(p, lr=0.1, unit_rows=True)

    torch.testing.assert_close(trained([kernel], make), trained([50 * kernel], make))


def test_other_groups_are_stepped_by_sgd():
    start = [torch.randn(3), torch.randn(2, 2)]
    options = {"lr": 0.1, "momentum": 0.8}
    ours = trained(start, lambda p: Muon([{"params": p, "orthogonal": False}], **options))
    theirs = trained(start, lambda p: torch.optim.SGD(p, nesterov=True, **options))
    torch.testing.assert_close(ours, theirs)


def test_adaptive_groups_are_stepped_by_adamw():
    start = [torch.randn(3), torch.randn(2, 2)]
    options = {"lr": 0.1, "weight_decay": 0.2}
    ours = trained(
        start, lambda p: Muon([{"params": p, "orthogonal": False, "adaptive": True}], momentum=0.8, **options)
    )
    theirs = trained(start, lambda p: torch.optim.AdamW(p, betas=(0.8, 0.95), **options))
    torch.testing.assert_close(ours, theirs)


def test_its_state_can_be_saved():
    p = nn.Parameter(torch.eye(3))
    optimizer = Muon([p], lr=0.1)
    p.grad = torch.ones(3, 3)
    optimizer.step()
    q = nn.Parameter(p.detach().clone())
    other = Muon([q], lr=0.1)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for parameter, own in ((p, optimizer), (q, other)):
        parameter.grad = torch.arange(9.0).view(3, 3)
        own.step()
    torch.testing.assert_close(p, q)
