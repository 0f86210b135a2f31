"""Memory: what a solve keeps for its backward, and what it needs at its peak, do not grow with the iterations."""

import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from deqzoo.implicit import Anderson, Implicit, Neumann, OneStep, Phantom, Picard, Unrolled, fixed_point
from deqzoo.nn import DEQ
from tests.implicit.problems import draw

WIDTH, BATCH = 16, 4
STATE = WIDTH * BATCH * 4  # bytes


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all storages made inside that are still alive, wherever they are held."""

    def __init__(self):
        super().__init__()
        self.storages = {}
        self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        inputs = {t.untyped_storage()._cdata for t in args if isinstance(t, torch.Tensor)}
        outside = inputs - self.storages.keys()  # whose views do not count
        result = func(*args, **(kwargs or {}))
        for t in result if isinstance(result, tuple | list) else [result]:
            if isinstance(t, torch.Tensor) and t.untyped_storage()._cdata not in outside:
                storage = t.untyped_storage()
                self.storages[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.peak = max(self.peak, self.alive())
        return result

    def alive(self):
        for key in [key for key, (ref, _) in self.storages.items() if ref.expired()]:
            del self.storages[key]
        return sum(size for _, size in self.storages.values())


class Cell(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, z, x):
        return torch.cos(self.linear(z) + x)


def packed_bytes(solver, gradient):
    """Bytes that one training step of a layer hands to autograd for its backward."""
    layer, x, total = DEQ(Cell(), solver=solver, adjoint=gradient), draw(BATCH, WIDTH).float(), 0

    def pack(t):
        nonlocal total
        total += t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        z = layer(x)
        z.square().sum().backward()
    assert layer.solution.steps.max() == solver.max_steps
    return total


def live_bytes(solver, gradient):
    """Bytes alive after the forward, and the peaks of forward and training step."""
    layer, x = DEQ(Cell(), solver=solver, adjoint=gradient), draw(BATCH, WIDTH).float()
    with LiveBytes() as live:
        z = layer(x)
        kept, peak_forward = live.alive(), live.peak
        z.square().sum().backward()
    return kept, peak_forward, live.peak


def endless(solver, steps):
    """A solver that takes all its steps: a tolerance of zero is never met by this cell."""
    return solver(tol=0, max_steps=steps, patience=10_000)


GRADIENTS = [Implicit(), Phantom(steps=3), OneStep()]


@pytest.mark.parametrize("gradient", GRADIENTS, ids=repr)
@pytest.mark.parametrize("solver", [Picard, Anderson])
def test_bytes_saved_for_backward_do_not_depend_on_the_iterations(solver, gradient):
    few, more, most = (packed_bytes(endless(solver, steps), gradient) for steps in (10, 100, 1000))
    assert few == more == most > 0


@pytest.mark.parametrize("gradient", [Implicit(Neumann(k=4)), Phantom(steps=3), OneStep()], ids=repr)
@pytest.mark.parametrize("solver", [Picard, Anderson])
def test_live_bytes_do_not_depend_on_the_iterations(solver, gradient):
    """Neither what is kept in any other way (closures, the solution), nor the peaks, but for one copy of the best."""
    few, more = (live_bytes(endless(solver, steps), gradient) for steps in (15, 60))
    assert few[0] == more[0]
    for a, b in zip(few[1:], more[1:], strict=True):
        assert (
            b <= a + 4 * STATE
        )  # the best iterate may be another than the present one; 1,000 steps would be 1,000 states


def test_the_counts_see_what_an_unrolled_solve_keeps():
    """Else the tests above could not fail."""
    few, more = endless(Picard, 4), endless(Picard, 40)
    assert packed_bytes(more, Unrolled()) > 8 * packed_bytes(few, Unrolled())
    for a, b in zip(live_bytes(few, Unrolled()), live_bytes(more, Unrolled()), strict=True):
        assert b > 4 * a


def test_peak_of_plain_iteration_is_a_few_states():
    """z, f(z), their difference, the best so far, and what f needs inside."""
    assert live_bytes(endless(Picard, 40), Implicit())[1] <= 12 * STATE


@pytest.mark.parametrize("depth", [2, 8])
def test_peak_of_anderson_is_its_depth(depth):
    """Two stored differences a step of depth, in a buffer that doubles: at most 2 (depth + 1) states and a few more."""
    solver = Anderson(tol=0, max_steps=40, patience=10_000, depth=depth)
    assert live_bytes(solver, Implicit())[1] <= (4 * (depth + 1) + 16) * STATE


def test_graph_is_freed_with_the_result():
    """The result, its graph and all that the solve kept go when the last reference goes: no cycles to be collected."""
    cell, x = Cell(), draw(BATCH, WIDTH).float()
    with LiveBytes() as live:
        z, solution = fixed_point(cell, torch.zeros_like(x), x, batch_dims=1, return_solution=True, on_failure="ignore")
        assert live.alive() > 0
        del z, solution
        assert live.alive() == 0


def test_graph_is_freed_after_backward():
    cell, x = Cell(), draw(BATCH, WIDTH).float()
    with LiveBytes() as live:
        z = fixed_point(cell, torch.zeros_like(x), x, batch_dims=1, on_failure="ignore")
        z.sum().backward()
        del z
        gradients = sum(p.grad.untyped_storage().nbytes() for p in cell.parameters())
        assert live.alive() == gradients


def test_forward_without_gradient_keeps_the_result_alone():
    cell, x = Cell(), draw(BATCH, WIDTH).float()
    with LiveBytes() as live, torch.no_grad():
        z = fixed_point(cell, torch.zeros_like(x), x, solver=Anderson(tol=1e-4), batch_dims=1)
        assert live.alive() == z.untyped_storage().nbytes() == STATE
