"""The equilibrium layer: states, start, statistics, randomness, and how it behaves as a module."""

import copy
import pickle

import pytest
import torch
from torch import nn

from deqzoo.implicit import (
    Anderson,
    Broyden,
    Implicit,
    NonConvergenceError,
    NonConvergenceWarning,
    OneStep,
    Phantom,
    Picard,
    Unrolled,
)
from deqzoo.nn import DEQ, ConvCell
from tests.implicit.solvers.helpers import F64, assert_close, randn
from tests.nn.layers import SHARP, Dense2, TwoStates, gradients, unrolled

# --- states ---


def test_a_state_of_two_tensors_and_a_start_of_the_cells_own():
    cell, x = TwoStates(), randn(3, 2, 4, seed=1).requires_grad_()
    deq = DEQ(cell, **SHARP)
    state = deq(x)
    assert [tuple(s.shape) for s in state] == [(3, 2, 4), (3, 2, 3)]
    assert deq.solution.converged.shape == (3,)
    for a, b in zip(state, unrolled(cell, x), strict=True):
        assert_close(a, b, 1e-10)
    for ours, reference in zip(gradients(state, x, cell), gradients(unrolled(cell, x), x, cell), strict=True):
        assert_close(ours, reference, 1e-9)


def test_inputs_may_be_a_pytree_when_the_cell_brings_its_start():
    class Injected(Dense2):
        def initial_state(self, x):
            return torch.zeros_like(x["image"])

        def forward(self, z, x):
            return super().forward(z, x["image"]) + 0.1 * x["shift"]

    cell = Injected()
    x = {"image": randn(2, 5, seed=1).requires_grad_(), "shift": randn(2, 1, seed=2).requires_grad_()}
    ours = torch.autograd.grad(DEQ(cell, **SHARP)(x).sum(), list(x.values()))
    reference = torch.autograd.grad(unrolled(cell, x).sum(), list(x.values()))
    for a, b in zip(ours, reference, strict=True):
        assert_close(a, b, 1e-9)


def test_a_half_precision_input_is_solved_in_float32():
    deq = DEQ(lambda z, x: 0.5 * torch.cos(z) + x.float())
    z = deq(torch.ones(2, 3, dtype=torch.bfloat16))
    assert z.dtype == torch.float32
    assert deq.solution.converged.all()


def test_a_channels_last_state_is_not_copied_and_equals_the_contiguous_one():
    cell = ConvCell(8)
    layouts = []

    def watched(z, x):
        layouts.append(z.is_contiguous(memory_format=torch.channels_last))
        return cell(z, x)

    x = randn(2, 8, 6, 6, seed=1, dtype=torch.float32)
    fast = x.to(memory_format=torch.channels_last).requires_grad_()
    deq = DEQ(watched, solver=Anderson(tol=1e-5, max_steps=60))
    z = deq(fast)
    assert all(layouts)
    assert z.is_contiguous(memory_format=torch.channels_last)
    plain = x.clone().requires_grad_()
    layouts.clear()
    reference = deq(plain)
    assert not any(layouts)
    assert_close(z, reference, 1e-4)
    cotangent = randn(2, 8, 6, 6, seed=2, dtype=torch.float32)
    z.backward(cotangent)
    reference.backward(cotangent)
    assert fast.grad.is_contiguous(memory_format=torch.channels_last)
    assert_close(fast.grad, plain.grad, 1e-3)


# --- start, statistics ---


@pytest.mark.parametrize("solver", [Picard, Anderson, Broyden], ids=["picard", "anderson", "broyden"])
def test_a_warm_start_saves_evaluations(solver):
    cell, x = Dense2(), randn(3, 5, seed=1)
    deq = DEQ(cell, solver=solver(tol=1e-6))
    z = deq(x)
    cold = deq.solution.nfe
    near = deq(x + 1e-5, z0=z)
    assert deq.solution.nfe < 0.6 * cold
    assert_close(near, deq(x + 1e-5), 1e-5)
    again = deq(x, z0=deq.solution.value)
    deq(x, z0=again.detach())
    assert deq.solution.nfe <= 2


@pytest.mark.parametrize(
    "gradient",
    [Implicit(), Phantom(steps=60), OneStep(), Unrolled()],
    ids=["implicit", "phantom", "one_step", "unrolled"],
)
def test_a_warm_start_at_the_answer_still_gives_gradients(gradient):
    cell, x = Dense2(), randn(3, 5, seed=1).requires_grad_()
    deq = DEQ(cell, solver=Picard(max_steps=200), adjoint=gradient)
    start = deq(x).detach()
    found = gradients(deq(x, z0=start), x, cell)
    assert all(g.abs().max() > 0 for g in found)
    if not isinstance(gradient, OneStep | Unrolled):
        for ours, reference in zip(found, gradients(unrolled(cell, x), x, cell), strict=True):
            assert_close(ours, reference, 1e-9)


def test_no_gradient_flows_to_the_start():
    cell, x = Dense2(), randn(3, 5, seed=1)
    start = torch.zeros(3, 5, dtype=F64, requires_grad=True)
    DEQ(cell, **SHARP)(x, z0=start).sum().backward()
    assert start.grad is None


def test_the_solution_tells_about_forward_and_backward():
    deq = DEQ(Dense2(), solver=Anderson(trace=True))
    assert deq.solution is None
    x = randn(3, 5, seed=1).requires_grad_()
    z = deq(x)
    forward = deq.solution
    assert not forward.value.requires_grad
    assert torch.equal(forward.value, z)
    assert forward.trace.shape == (forward.nfe, 3)
    assert forward.backward is None
    z.sum().backward()
    assert forward.backward.converged.all()
    assert forward.backward.nfe > 0
    deq(x)
    assert deq.solution is not forward
    assert deq.solution.backward is None


def test_a_sample_that_does_not_converge_is_reported_and_leaves_the_others_right():
    x = torch.tensor([[0.3, 0.1], [0.5, -0.2]], dtype=F64).requires_grad_()

    def cell(z, x):
        gain = torch.tensor([[0.5], [-3.0]], dtype=F64)
        return gain * z + x

    deq = DEQ(cell, solver=Picard(max_steps=100))
    z = deq(x)
    assert deq.solution.converged.tolist() == [True, False]
    assert_close(z[0], 2 * x[0], 1e-10)
    z[0].sum().backward()
    assert_close(x.grad[0], torch.full((2,), 2.0), 1e-9)
    with pytest.warns(NonConvergenceWarning, match="1 of 2"):
        DEQ(cell, solver=Picard(max_steps=100), on_failure="warn")(x)
    with pytest.raises(NonConvergenceError, match="1 of 2"):
        DEQ(cell, solver=Picard(max_steps=100), on_failure="raise")(x)


@pytest.mark.parametrize("mode", [None, torch.no_grad, torch.inference_mode])
def test_the_spectral_radius_of_each_sample(mode):
    rotation = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    deq = DEQ(lambda z, x: x[:, :1] * (z @ rotation) + 1)
    with torch.enable_grad() if mode is None else mode():
        x = torch.tensor([[0.9, 0.0], [0.2, 0.0]])
        radius = deq.spectral_radius(x, torch.zeros(2, 2))
    assert torch.allclose(radius, torch.tensor([0.9, 0.2]), atol=1e-5)
    assert not radius.requires_grad


# --- randomness ---


def test_the_dropout_mask_is_fixed_within_a_solve_and_its_backward():
    """The same masks by hand: seed, draw once, iterate with the mask as a constant."""
    cell, x = Dense2(dropout=0.5), randn(4, 5, seed=1).requires_grad_()
    deq = DEQ(cell, **SHARP)
    torch.manual_seed(7)
    ours = gradients(deq(x), x, cell)
    torch.manual_seed(7)
    mask = nn.functional.dropout(torch.ones(4, 5, dtype=F64), 0.5)
    cell_by_hand = lambda z, x: torch.tanh(mask * cell.to_state(z) + cell.injection(x))  # noqa: E731
    for a, b in zip(ours, gradients(unrolled(cell_by_hand, x), x, cell), strict=True):
        assert_close(a, b, 1e-9)


def test_two_forwards_draw_two_masks_and_a_seed_repeats_them():
    deq = DEQ(Dense2(dropout=0.5), **SHARP)
    x = randn(4, 5, seed=1)
    torch.manual_seed(3)
    first, second = deq(x), deq(x)
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    assert torch.equal(deq(x), first)


def test_a_solve_moves_the_generator_on_as_one_evaluation_does():
    """However many steps a solve takes, what is drawn after it stays the same."""
    cell, x = Dense2(dropout=0.5), randn(4, 5, seed=1).requires_grad_()
    drawn = set()
    for max_steps in (3, 50):
        torch.manual_seed(3)
        z = DEQ(cell, solver=Anderson(tol=1e-9, max_steps=max_steps))(x)
        drawn.add(torch.rand(()).item())
        z.sum().backward()
        drawn.add(torch.rand(()).item())
    torch.manual_seed(3)
    cell(torch.zeros_like(x), x)
    assert drawn == {torch.rand(()).item(), torch.rand(()).item()}


def test_dropout_is_off_in_eval_mode():
    deq = DEQ(Dense2(dropout=0.5), **SHARP).eval()
    x = randn(4, 5, seed=1)
    assert torch.equal(deq(x), deq(x))


# --- modules ---


def test_a_deepcopy_leaves_the_solution_behind_and_shares_nothing():
    deq = DEQ(Dense2(), **SHARP)
    x = randn(2, 5, seed=1).requires_grad_()
    z = deq(x)
    twin = copy.deepcopy(deq)
    assert twin.solution is None
    assert deq.solution is not None
    with torch.no_grad():
        twin.cell.to_state.bias.add_(1)
    assert not torch.equal(twin(x), z)
    assert torch.equal(deq(x), z)
    assert list(twin.state_dict()) == list(deq.state_dict())
    assert twin.solver == deq.solver


def test_a_module_list_of_copies_can_be_copied():
    stack = nn.ModuleList([DEQ(Dense2(), **SHARP) for _ in range(2)])
    x = randn(2, 5, seed=1)
    for layer in stack:
        x = layer(x)
    twin = copy.deepcopy(stack)
    assert len(list(twin.parameters())) == len(list(stack.parameters()))


def test_a_pickle_leaves_the_solution_behind():
    deq = DEQ(Dense2(), **SHARP)
    x = randn(2, 5, seed=1).requires_grad_()
    z = deq(x)
    twin = pickle.loads(pickle.dumps(deq))
    assert twin.solution is None
    assert torch.equal(twin(x), z)


def test_a_state_dict_makes_the_round_trip_and_holds_the_cell_alone():
    deq, other = DEQ(Dense2(), **SHARP), DEQ(Dense2(), **SHARP)
    x = randn(2, 5, seed=1)
    z = deq(x)
    state = deq.state_dict()
    assert set(state) == {f"cell.{name}" for name, _ in deq.cell.named_parameters()}
    with torch.no_grad():
        other.cell.injection.weight.zero_()
    other.load_state_dict(state)
    assert torch.equal(other(x), z)


def test_half_and_double_and_train_and_eval_reach_the_cell():
    deq = DEQ(Dense2(dtype=torch.float32, dropout=0.5))
    assert deq.double().cell.to_state.weight.dtype == F64
    assert not deq.eval().cell.dropout.training


def test_an_in_place_operation_on_the_result_is_right_or_refused():
    """The layer keeps its result for the backward, as tanh does; torch sees that it was written to."""
    cell, x = Dense2(), randn(2, 5, seed=1).requires_grad_()
    z = DEQ(cell, **SHARP)(x)
    z.relu_()
    with pytest.raises(RuntimeError, match="inplace"):
        z.sum().backward()


def test_a_cell_of_another_shape_is_an_error_that_shows_both():
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(2, 4\)"):
        DEQ(lambda z, x: torch.zeros(2, 4))(torch.zeros(2, 3))


def test_unrolled_needs_plain_iteration():
    with pytest.raises(TypeError, match=r"solver=Picard"):
        DEQ(Dense2(), solver=Anderson(), adjoint=Unrolled())(randn(2, 5))


def test_the_bytes_kept_for_the_backward_do_not_depend_on_the_steps():
    cell, x = Dense2(), randn(16, 5, seed=1).requires_grad_()
    kept = set()
    for solver in (
        Picard(tol=0.0, max_steps=10),
        Picard(tol=0.0, max_steps=200),
        Anderson(tol=0.0, max_steps=60),
    ):
        sizes: list[int] = []

        def keep(tensor, sizes=sizes):
            sizes.append(tensor.nbytes)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            DEQ(cell, solver=solver)(x).sum()
        kept.add(sum(sizes))
    assert len(kept) == 1
