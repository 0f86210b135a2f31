"""Pytrees of tensors as one matrix: solvers see a state of shape (systems, unknowns), whatever the user's structure."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .modes import in_transform
from .private_api import torch_pytree

Tensors = tuple[Tensor, ...]
_LEAF = torch_pytree.tree_structure(0)  # of a tree that is one tensor


def tensor_leaves(tree: Any) -> list[Tensor]:
    """The tensors of a pytree, in order; other leaves are constants and left out."""
    if isinstance(tree, Tensor):  # the short way: a small solve takes less time than asking what a tree it is
        return [tree]
    if type(tree) is tuple and all(isinstance(leaf, Tensor) for leaf in tree):  # arguments, mostly
        return list(tree)
    return [leaf for leaf in torch_pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def map_tensors(function: Any, tree: Any) -> Any:
    """`tree` with each tensor replaced by `function(tensor)`."""
    if type(tree) is tuple and all(isinstance(leaf, Tensor) for leaf in tree):
        return tuple([function(leaf) for leaf in tree])
    return torch_pytree.tree_map_only(Tensor, function, tree)


def with_tensors(tree: Any, tensors: Sequence[Tensor]) -> Any:
    """`tree` with other tensors in place of its own, in the order of `tensor_leaves`."""
    others = iter(tensors)
    return map_tensors(lambda _: next(others), tree)


def with_keywords(f: Callable[..., Any], names: Sequence[str]) -> Callable[..., Any]:
    """`f`, whose last arguments are given to it by name."""
    if not names:
        return f
    count = len(names)
    return lambda *args: f(*args[:-count], **dict(zip(names, args[-count:], strict=True)))


def lerp(start: Any, end: Any, weight: float) -> Any:
    """start + weight (end - start), of two pytrees of one structure."""
    return torch_pytree.tree_map(lambda a, b: torch.lerp(a, b.to(a.dtype), weight), start, end)


def take_rows(tree: Any, rows: Tensor, systems: int) -> Any:
    """`tree` with the tensors that have `systems` as leading axis cut to some rows; other tensors are shared by all."""
    return map_tensors(lambda leaf: leaf[rows] if leaf.dim() and len(leaf) == systems else leaf, tree)


class Ravel:
    """The map between a pytree and a matrix of shape (systems, unknowns).

    Args:
        tree: a pytree whose leaves are floating-point tensors; it fixes structure, shapes, dtypes and memory layout.
        batch_dims: 0: the whole tree is one system (one row); 1: each leading index is a system of its own
            (2 and more: each index of the leading axes).

    Half-precision leaves are solved for in float32. A channels-last leaf is read in its memory order, without a copy.

    >>> ravel = Ravel({"a": torch.zeros(3, 2), "b": torch.zeros(3)}, batch_dims=1)
    >>> ravel.flatten({"a": torch.ones(3, 2), "b": torch.zeros(3)}).shape
    torch.Size([3, 3])
    """

    def __init__(self, tree: Any, batch_dims: int = 0) -> None:
        leaves, self.structure = ([tree], _LEAF) if isinstance(tree, Tensor) else torch_pytree.tree_flatten(tree)
        _check_leaves(leaves, batch_dims)
        self.batch_dims = batch_dims
        self.shapes = [leaf.shape for leaf in leaves]
        self.dtypes = [leaf.dtype for leaf in leaves]
        self.device = leaves[0].device
        self.batch_shape = leaves[0].shape[:batch_dims]
        self.systems = math.prod(self.batch_shape)
        self.sizes = [math.prod(shape[batch_dims:]) for shape in self.shapes]
        self.dtype = torch.float32
        for dtype in self.dtypes:
            self.dtype = torch.promote_types(self.dtype, dtype)
        self._channels_last = [batch_dims == 1 and _is_channels_last(leaf) for leaf in leaves]
        plain = isinstance(tree, Tensor) and not self._channels_last[0] and self.dtypes[0] == self.dtype
        self._shape = self.shapes[0] if plain else None  # of a tree that is one tensor: the short way
        flat = type(tree) is dict and all(isinstance(leaf, Tensor) for leaf in tree.values())
        self._keys = list(tree) if flat else None  # of a dict of tensors: the second shortest

    def of(self, systems: int) -> Ravel:
        """The same map for another number of systems (batch_dims=1)."""
        other = copy.copy(self)
        other.shapes = [torch.Size([systems, *shape[1:]]) for shape in self.shapes]
        other.batch_shape, other.systems = torch.Size([systems]), systems
        other._shape = None if self._shape is None else other.shapes[0]
        return other

    def leaves(self, tree: Any) -> list[Tensor]:
        """The tensors of a result, in the unknown's order: entries of dictionaries are found by their keys.

        Raises:
            ValueError: it names the difference, if `tree` has another structure or other shapes.
        """
        if self._shape is not None and isinstance(tree, Tensor) and tree.shape == self._shape:
            return [tree]
        if self._keys is not None and type(tree) is dict and tree.keys() == set(self._keys):
            leaves = [tree[key] for key in self._keys]
        else:
            try:
                leaves = self.structure.flatten_up_to(tree)
            except ValueError:
                leaves = []
        if [getattr(leaf, "shape", None) for leaf in leaves] != self.shapes:
            found = torch_pytree.tree_map(lambda leaf: tuple(getattr(leaf, "shape", ())), tree)
            expected = torch_pytree.tree_unflatten([tuple(shape) for shape in self.shapes], self.structure)
            raise ValueError(f"expected a result of the unknown's structure and shapes {expected}, got {found}")
        return leaves

    def flatten(self, tree: Any) -> Tensor:
        """The tree as a matrix (systems, unknowns)."""
        leaves = self.leaves(tree)
        if self._shape is not None:
            return leaves[0].reshape(self.systems, self.sizes[0]).to(self.dtype)
        return self.flatten_leaves(leaves)

    def flatten_leaves(self, leaves: Any) -> Tensor:
        """As `flatten`, from the list of leaves."""
        if self._shape is not None:
            rows: Tensor = leaves[0].reshape(self.systems, self.sizes[0])
            return rows if rows.dtype == self.dtype else rows.to(self.dtype)
        parts = []
        for leaf, last, size in zip(leaves, self._channels_last, self.sizes, strict=True):
            leaf = leaf.permute(0, 2, 3, 1) if last else leaf
            parts.append(leaf.reshape(self.systems, size).to(self.dtype))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def unflatten_leaves(self, matrix: Tensor) -> Tensors:
        """The leaves, in their own shapes, dtypes and memory layouts."""
        if self._shape is not None:
            return (matrix.reshape(self._shape),)
        leaves = []
        parts = matrix.split(self.sizes, dim=1) if len(self.sizes) > 1 else (matrix,)
        for part, shape, dtype, last in zip(parts, self.shapes, self.dtypes, self._channels_last, strict=True):
            if last:
                part = part.reshape(shape[0], shape[2], shape[3], shape[1]).permute(0, 3, 1, 2)
            leaves.append(part.reshape(shape).to(dtype) if not last else part.to(dtype))
        return tuple(leaves)

    def unflatten(self, matrix: Tensor) -> Any:
        """The matrix as a tree of the original structure."""
        if self._shape is not None:
            return matrix.reshape(self._shape)
        return self.restore(self.unflatten_leaves(matrix))

    def unflatten_many(self, matrices: Tensor) -> Any:
        """As `unflatten`, of a stack (n, systems, unknowns): leaves (n, *shape)."""
        leaves = []
        parts = matrices.split(self.sizes, dim=2) if len(self.sizes) > 1 else (matrices,)
        for part, shape, dtype, last in zip(parts, self.shapes, self.dtypes, self._channels_last, strict=True):
            if last:
                part = part.reshape(-1, shape[0], shape[2], shape[3], shape[1]).permute(0, 1, 4, 2, 3)
            leaves.append((part if last else part.reshape(len(part), *shape)).to(dtype))
        return self.restore(leaves)

    def restore(self, leaves: Sequence[Tensor]) -> Any:
        """The tree of the given leaves."""
        if self._shape is not None:
            return leaves[0]
        if self._keys is not None:
            return dict(zip(self._keys, leaves, strict=True))
        return torch_pytree.tree_unflatten(list(leaves), self.structure)

    def per_system(self, values: Tensor) -> Tensor:
        """A vector with one entry per system, in the shape of the batch: () for a single system."""
        return values.reshape(values.shape[:-1] + self.batch_shape)


def _is_channels_last(leaf: Tensor) -> bool:
    if leaf.dim() != 4 or in_transform():
        return False
    return leaf.is_contiguous(memory_format=torch.channels_last) and not leaf.is_contiguous()


def _check_leaves(leaves: list[Any], batch_dims: int) -> None:
    if not leaves:
        raise ValueError("the unknown has no tensors; pass a tensor or a pytree of tensors")
    for leaf in leaves:
        if not isinstance(leaf, Tensor):
            raise TypeError(f"every leaf of the unknown must be a tensor, got {type(leaf).__name__}")
        if not leaf.dtype.is_floating_point:
            hint = "take torch.view_as_real of it, and view_as_complex in f" if leaf.is_complex() else "use .float()"
            raise TypeError(f"the unknown must be real floating point, got {leaf.dtype}; {hint}")
        if leaf.dim() < batch_dims:
            raise ValueError(
                f"batch_dims={batch_dims} needs that many leading batch axes on every tensor of the unknown"
            )
        if leaf.shape[:batch_dims] != leaves[0].shape[:batch_dims]:
            sizes = [tuple(x.shape[:batch_dims]) for x in leaves if isinstance(x, Tensor)]
            raise ValueError(
                f"batch_dims={batch_dims} needs the same leading size on every tensor of the unknown, got {sizes}"
            )
