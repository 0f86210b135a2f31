"""The map between a pytree and a matrix (systems, unknowns): round trips for any structure, clear errors."""

from collections import namedtuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deqzoo.implicit.pytree import Ravel, map_tensors, tensor_leaves
from tests.implicit.solvers.helpers import F64, randn

Pair = namedtuple("Pair", ["first", "second"])


@settings(max_examples=40)
@given(
    batch=st.lists(st.integers(0, 3), max_size=2),
    shapes=st.lists(st.lists(st.integers(0, 3), max_size=3), min_size=1, max_size=4),
    seed=st.integers(0, 1000),
)
def test_flatten_and_unflatten_are_inverse(batch, shapes, seed):
    leaves = [randn(*batch, *shape, seed=seed + i) for i, shape in enumerate(shapes)]
    tree = {"head": leaves[0], "tail": (leaves[1:],)}
    ravel = Ravel(tree, batch_dims=len(batch))
    matrix = ravel.flatten(tree)
    systems = 1
    for size in batch:
        systems *= size
    unknowns = sum(torch.Size(shape).numel() for shape in shapes)
    assert matrix.shape == (systems, unknowns)
    back = ravel.unflatten(matrix)
    assert torch.equal(back["head"], leaves[0])
    assert all(torch.equal(a, b) for a, b in zip(back["tail"][0], leaves[1:], strict=True))


def test_many_matrices_are_unflattened_at_once():
    """As one by one: several leaves, a single one, and one whose layout is channels last."""
    channels_last = randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    for tree in ({"a": randn(2, 3), "b": (randn(2), randn(2, 2, 2))}, randn(2, 4), channels_last):
        ravel = Ravel(tree, batch_dims=1)
        matrices = randn(3, *ravel.flatten(tree).shape, seed=1)
        alone = [tensor_leaves(ravel.unflatten(matrix)) for matrix in matrices]
        many = tensor_leaves(ravel.unflatten_many(matrices))
        assert len(many) == len(alone[0])
        for leaf, *others in zip(many, *alone, strict=True):
            assert torch.equal(leaf, torch.stack(others))


def test_a_row_holds_the_leaves_of_one_system_in_order():
    tree = (torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([9.0, 8.0]))
    assert Ravel(tree, 1).flatten(tree).tolist() == [[1, 2, 9], [3, 4, 8]]
    assert Ravel(tree, 0).flatten(tree).tolist() == [[1, 2, 3, 4, 9, 8]]


def test_structures_of_every_kind_come_back_as_they_were():
    for tree in (
        torch.zeros(2),
        [torch.zeros(2)],
        Pair(torch.zeros(2), (torch.zeros(1),)),
        {"a": {"b": torch.zeros(())}},
    ):
        ravel = Ravel(tree)
        back = ravel.unflatten(ravel.flatten(tree))
        assert type(back) is type(tree)
        assert torch.utils._pytree.tree_structure(back) == torch.utils._pytree.tree_structure(tree)


def test_dtypes_are_promoted_for_the_solve_and_restored():
    tree = {"half": torch.ones(2, dtype=torch.float16), "single": torch.ones(1)}
    assert Ravel(tree).flatten(tree).dtype == torch.float32
    tree["double"] = torch.ones(1, dtype=F64)
    ravel = Ravel(tree)
    assert ravel.flatten(tree).dtype == F64
    assert [t.dtype for t in tensor_leaves(ravel.unflatten(ravel.flatten(tree)))] == [
        torch.float16,
        torch.float32,
        F64,
    ]


def test_a_single_contiguous_leaf_is_not_copied():
    z = torch.zeros(3, 4, 5)
    assert Ravel(z, 1).flatten(z).data_ptr() == z.data_ptr()
    matrix = torch.zeros(3, 20)
    assert Ravel(z, 1).unflatten(matrix).data_ptr() == matrix.data_ptr()


def test_a_channels_last_leaf_is_not_copied_and_keeps_its_layout():
    z = randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    ravel = Ravel(z, 1)
    matrix = ravel.flatten(z)
    assert matrix.data_ptr() == z.data_ptr()
    back = ravel.unflatten(matrix)
    assert back.data_ptr() == z.data_ptr()
    assert back.stride() == z.stride()
    assert torch.equal(back, z)
    contiguous = z.contiguous()
    assert torch.equal(ravel.unflatten(ravel.flatten(contiguous)), z)


def test_values_of_each_system_take_the_shape_of_the_batch():
    assert Ravel(torch.zeros(4), 0).per_system(torch.zeros(1)).shape == ()
    assert Ravel(torch.zeros(4, 2), 1).per_system(torch.zeros(4)).shape == (4,)
    assert Ravel(torch.zeros(2, 3, 5), 2).per_system(torch.zeros(6)).shape == (2, 3)
    assert Ravel(torch.zeros(2, 5), 1).per_system(torch.zeros(7, 2)).shape == (7, 2)


@pytest.mark.parametrize(
    ("tree", "batch_dims", "error", "message"),
    [
        ((), 0, ValueError, "no tensors"),
        ({}, 0, ValueError, "no tensors"),
        ([torch.zeros(2), 3.0], 0, TypeError, "float"),
        ([torch.zeros(2), "name"], 0, TypeError, "str"),
        (torch.zeros(2, dtype=torch.long), 0, TypeError, r"int64.*\.float\(\)"),
        (torch.zeros(2, dtype=torch.complex64), 0, TypeError, "complex64"),
        (torch.zeros(()), 1, ValueError, "batch_dims=1"),
        ((torch.zeros(2, 3), torch.zeros(3)), 1, ValueError, r"batch_dims=1.*\(2,\).*\(3,\)"),
    ],
)
def test_bad_unknowns_are_errors_that_say_what_is_wrong(tree, batch_dims, error, message):
    with pytest.raises(error, match=message):
        Ravel(tree, batch_dims)


@pytest.mark.parametrize(
    "other", [torch.zeros(3), (torch.zeros(2),), torch.zeros(2, 1), None, {"a": torch.zeros(2)}, 3.0]
)
def test_another_structure_or_shape_is_an_error(other):
    with pytest.raises(ValueError, match="structure and shapes"):
        Ravel(torch.zeros(2)).flatten(other)


def test_map_tensors_leaves_other_leaves_alone():
    tree = {"x": torch.ones(2), "name": "layer", "n": 3, "none": None}
    doubled = map_tensors(lambda t: 2 * t, tree)
    assert doubled["name"] == "layer"
    assert doubled["n"] == 3
    assert doubled["none"] is None
    assert doubled["x"].tolist() == [2, 2]
    assert [t.tolist() for t in tensor_leaves(tree)] == [[1, 1]]
