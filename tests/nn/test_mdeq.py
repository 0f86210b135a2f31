"""The multiscale cell and its joint fixed point: the map, the solve, the gradients, independence of the samples."""

import copy

import pytest
import torch

from deqzoo.implicit import Anderson, Broyden, Implicit, Neumann, Phantom, Picard, Unrolled
from deqzoo.nn import DEQ, MDEQCell

F64 = torch.float64


def cell_of(widths=(4, 6), seed=0, **options):
    """A small cell with a Jacobian of radius .2 to .6: its state enters it with little weight."""
    torch.manual_seed(seed)
    cell = MDEQCell(widths, **{"expansion": 2.0, "groups": 2, **options}).to(F64)
    with torch.no_grad():
        for parameter in cell.parameters():
            if parameter.ndim == 1:  # gains and shifts of the norms: unlike those of a fresh cell, none is special
                parameter.add_(0.05 * torch.randn_like(parameter))
        for output in cell.outputs:
            output[-1].weight.mul_(0.1)
        for blocks in cell.blocks[1:]:
            blocks[-1].norm3.weight.mul_(0.03)
    return cell


def images(n=3, width=4, size=6):
    x = torch.randn(n, width, size, size, dtype=F64, generator=torch.Generator().manual_seed(1))
    return x * (0.5 * 4 ** torch.arange(n)).view(-1, 1, 1, 1)  # of mixed difficulty


def iterated(cell, x, steps=80):
    z = cell.initial_state(x)
    for _ in range(steps):
        z = cell(z, x)
    return z


def distance(a, b):
    return max((p - q).abs().max().item() for p, q in zip(a, b, strict=True))


# --- the map ---


@pytest.mark.parametrize("widths", [(4,), (4, 6), (4, 6, 8)])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 5)])
def test_each_resolution_is_half_of_the_one_before_rounded_up(widths, height, width):
    cell, x = MDEQCell(widths, groups=2), torch.randn(2, 4, height, width)
    z = cell.initial_state(x)
    shapes = []
    for channels in widths:
        shapes.append((2, channels, height, width))
        height, width = -(-height // 2), -(-width // 2)
    assert [tuple(t.shape) for t in z] == shapes
    assert [tuple(t.shape) for t in cell(z, x)] == shapes


def test_it_is_the_map_of_its_docstring():
    cell, x = cell_of((4, 6, 8)), images(2, size=8)
    z = tuple(torch.randn_like(t) for t in cell.initial_state(x))

    def block(i, x=0.0):
        part = cell.blocks[i][0]
        hidden = torch.relu(part.norm1(part.conv1(z[i])))
        return part.norm3(torch.relu(z[i] + part.norm2(x + part.conv2(hidden))))

    def up(source, target):
        factor = 2 ** (source - target)
        return cell.paths[target][source](y[source]).repeat_interleave(factor, 2).repeat_interleave(factor, 3)

    def down(source, target):
        return cell.paths[target][source](y[source])

    y = [block(0, x), block(1), block(2)]
    sums = [
        y[0] + up(1, 0) + up(2, 0),
        down(0, 1) + y[1] + up(2, 1),
        down(0, 2) + down(1, 2) + y[2],
    ]
    expected = [norm(conv(torch.relu(total))) for (_, conv, norm), total in zip(cell.outputs, sums, strict=True)]
    assert distance(cell(z, x), expected) < 1e-12
    two_levels = [layer.stride if isinstance(layer, torch.nn.Conv2d) else type(layer) for layer in cell.paths[2][0]]
    assert two_levels == [(2, 2), torch.nn.GroupNorm, torch.nn.ReLU, (2, 2), torch.nn.GroupNorm]


def test_further_blocks_follow_the_first():
    cell, x = cell_of((4,), blocks=2), images(2)
    z = torch.randn_like(x)
    first, second = cell.blocks[0]
    out = cell.outputs[0]
    expected = out[2](out[1](torch.relu(second(first(z, x)))))
    assert distance(cell((z,), x), (expected,)) < 1e-12


def test_inputs_are_left_as_they_are():
    cell, x = cell_of((4,)), images(2)
    z = (torch.randn_like(x),)
    before = z[0].clone(), x.clone()
    cell(z, x)
    assert torch.equal(z[0], before[0])
    assert torch.equal(x, before[1])


def test_weight_norm_splits_filters_into_direction_and_length():
    cell = cell_of()
    weight = cell.blocks[0][0].conv1.weight
    parts = cell.blocks[0][0].conv1.parametrizations.weight
    assert torch.allclose(weight.flatten(1).norm(dim=1), parts.original0.flatten().abs())
    plain = MDEQCell((4, 6), expansion=2.0, groups=2, weight_norm=False)
    assert isinstance(plain.blocks[0][0].conv1.weight, torch.nn.Parameter)
    lengths = sum(p.numel() for name, p in cell.named_parameters() if name.endswith("original0"))
    assert sum(p.numel() for p in cell.parameters()) == sum(p.numel() for p in plain.parameters()) + lengths


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": []}, "^widths"),
        ({"widths": [8, 12]}, "^groups=8 must .*12"),
        ({"widths": [8], "groups": 1}, "^groups=1 must be even"),
        ({"widths": [8], "expansion": 1.5}, "^groups=8 must .*12"),
        ({"widths": [8], "blocks": 0}, "^blocks=0"),
    ],
)
def test_bad_options_are_errors_that_begin_with_the_option(options, message):
    with pytest.raises(ValueError, match=message):
        MDEQCell(**options)


# --- the joint solve ---


@pytest.mark.parametrize("solver", [Anderson(max_steps=200), Broyden(max_steps=200)], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("widths", [(4, 6), (4, 4, 6)])
def test_joint_solve_equals_tight_iteration(solver, widths):
    cell, x = cell_of(widths), images()
    deq = DEQ(cell, solver=solver, on_failure="raise")
    with torch.no_grad():
        reference = iterated(cell, x)
        assert distance(cell(reference, x), reference) < 1e-13
        assert distance(deq(x), reference) < 1e-9


def test_joint_solve_equals_newtons_with_the_dense_jacobian():
    cell, x = cell_of((2, 2), groups=2), images(1, width=2, size=4)
    z = cell.initial_state(x)
    sizes = [t.numel() for t in z]

    def residual(flat):
        state = [part.view_as(t) for part, t in zip(flat.split(sizes), z, strict=True)]
        return flat - torch.cat([t.flatten() for t in cell(state, x)])

    flat = torch.cat([t.flatten() for t in iterated(cell, x, steps=5)]).detach()  # where Newton's steps converge
    for _ in range(12):
        dense = torch.autograd.functional.jacobian(residual, flat)
        flat = flat - torch.linalg.solve(dense, residual(flat)).detach()
    assert residual(flat).norm() < 1e-12
    solved = DEQ(cell, solver=Anderson(max_steps=200), on_failure="raise")(x)
    assert distance([torch.cat([t.flatten() for t in solved])], [flat]) < 1e-9


@pytest.mark.parametrize("solver", [Anderson, Broyden, Picard])
def test_a_sample_has_the_same_answer_in_any_batch(solver):
    """At a loose tolerance, where it matters at which step a sample stops."""
    options = {"tol": 1e-3, "max_steps": 40}
    deq = DEQ(cell_of(), solver=solver(**options))
    x = images(4)
    with torch.no_grad():
        together, steps = deq(x), deq.solution.steps
        assert deq.solution.converged.all()
        assert len(set(steps.tolist())) > 1  # some wait for others
        for i in range(4):
            alone = deq(x[i : i + 1])
            assert deq.solution.steps.item() == steps[i]
            assert distance(alone, [t[i : i + 1] for t in together]) < 1e-9
        backwards = deq(x.flip(0))
        assert distance([t.flip(0) for t in backwards], together) < 1e-9


def test_one_samples_trouble_stays_its_own():
    deq = DEQ(cell_of(), solver=Anderson(tol=1e-6, max_steps=60))
    x = images(3)
    with torch.no_grad():
        expected = deq(x)
        x[1] = torch.nan
        found = deq(x)
    others = [0, 2]
    assert deq.solution.converged.tolist() == [True, False, True]
    assert distance([t[others] for t in found], [t[others] for t in expected]) < 1e-9


def test_warm_start_takes_no_step():
    deq = DEQ(cell_of(), solver=Anderson(tol=1e-8, max_steps=100))
    x = images()
    with torch.no_grad():
        z = deq(x)
        deq(x, z)
    assert deq.solution.nfe == 1


# --- gradients ---


def gradients(output, x, cell):
    loss = sum((t**2 * torch.arange(1, t[0].numel() + 1).view(t[0].shape)).sum() for t in output)
    return torch.autograd.grad(loss, [x, *cell.parameters()])


@pytest.mark.parametrize("widths", [(4, 6), (4, 4, 6)])
def test_gradients_equal_those_of_a_tight_unrolled_network(widths):
    cell, x = cell_of(widths), images(2).requires_grad_()
    deq = DEQ(cell, solver=Anderson(max_steps=200), adjoint=Implicit(), on_failure="raise")
    ours, reference = gradients(deq(x), x, cell), gradients(iterated(cell, x), x, cell)
    names = ["x", *dict(cell.named_parameters())]
    for name, a, b in zip(names, ours, reference, strict=True):
        assert (a - b).norm() <= 1e-7 * b.norm() + 1e-9, name
        assert b.norm() > 0, name


@pytest.mark.parametrize("gradient", [Phantom(5, 0.5), Implicit(Neumann(k=4, damping=0.5))], ids=["tape", "series"])
def test_phantom_gradient_is_that_of_damped_steps(gradient):
    cell, x = cell_of(), images(2).requires_grad_()
    z = tuple(t.detach() for t in iterated(cell, x))
    for _ in range(5):
        z = tuple(0.5 * a + 0.5 * b for a, b in zip(z, cell(z, x), strict=True))
    reference = gradients(z, x, cell)
    deq = DEQ(cell, solver=Anderson(max_steps=200), adjoint=gradient, on_failure="raise")
    for a, b in zip(gradients(deq(x), x, cell), reference, strict=True):
        assert (a - b).norm() <= 1e-7 * b.norm() + 1e-9


def test_dropout_is_one_mask_for_a_solve_and_another_for_the_next():
    deq = DEQ(cell_of(dropout=0.5), solver=Anderson(tol=1e-6, max_steps=100), on_failure="raise")
    x = images()
    first, second = deq(x), deq(x)  # a mask drawn anew in each step would never let it converge
    assert distance(first, second) > 1e-3
    deq.eval()
    assert distance(deq(x), deq(x)) == 0


def test_unrolled_is_the_explicit_network():
    cell, x = cell_of(), images(2).requires_grad_()
    deq = DEQ(cell, solver=Picard(max_steps=3, stop="never"), adjoint=Unrolled())
    output, reference = deq(x), iterated(cell, x, 3)
    assert distance(output, reference) < 1e-12
    for a, b in zip(gradients(output, x, cell), gradients(reference, x, cell), strict=True):
        assert torch.allclose(a, b)


# --- as a module ---


def test_copies_and_state_dicts_keep_the_weight_norm(tmp_path):
    deq = DEQ(cell_of(), solver=Anderson(tol=1e-8, max_steps=100))
    x = images()
    expected = deq(x)
    twin = copy.deepcopy(deq)
    assert distance(twin(x), expected) == 0
    torch.save(deq.state_dict(), tmp_path / "weights.pt")
    other = DEQ(cell_of(seed=5), solver=deq.solver)
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True), strict=True)
    assert distance(other(x), expected) == 0
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1)
    assert distance(deq(x), expected) == 0


def test_channels_last_all_the_way():
    cell = cell_of().to(memory_format=torch.channels_last)
    x = images().contiguous(memory_format=torch.channels_last)
    deq = DEQ(cell, solver=Anderson(tol=1e-8, max_steps=100))
    z = deq(x)
    assert all(t.is_contiguous(memory_format=torch.channels_last) for t in (*z, *cell(z, x)))
    assert distance(z, DEQ(cell_of(), solver=deq.solver)(images())) < 1e-6
