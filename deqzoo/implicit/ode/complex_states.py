"""Complex states, which the solvers see as pairs of real numbers: f and the user have complex tensors."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..private_api import torch_pytree
from ..pytree import Ravel


def ravel_of(tree: Any, batch_dims: int) -> Ravel:
    """The map between a state, of real and complex tensors, and a real matrix."""
    leaves = torch_pytree.tree_leaves(tree)
    some = any(isinstance(leaf, Tensor) and leaf.is_complex() for leaf in leaves)
    return ComplexRavel(tree, batch_dims) if some else Ravel(tree, batch_dims)


class ComplexRavel(Ravel):
    """As `Ravel`, of a tree with complex tensors: each is solved for as its real and imaginary parts, one more axis.

    `leaves`, `shapes` and `dtypes` are those of the parts; `flatten`, `unflatten` and `restore` have the user's tree.

    Attributes:
        pairs: which leaves are complex.

    >>> ravel = ComplexRavel({"a": torch.ones(2, dtype=torch.complex64), "b": torch.zeros(3)})
    >>> ravel.flatten({"a": torch.tensor([1j, 2.0]), "b": torch.zeros(3)})
    tensor([[0., 1., 2., 0., 0., 0., 0.]])
    """

    def __init__(self, tree: Any, batch_dims: int = 0) -> None:
        super().__init__(torch_pytree.tree_map_only(Tensor, as_real, tree), batch_dims)
        self.pairs = [leaf.is_complex() for leaf in torch_pytree.tree_leaves(tree)]
        self._shape = None  # the short ways are those of real tensors

    def leaves(self, tree: Any) -> list[Tensor]:
        """As `Ravel.leaves`; real values of a complex leaf have no imaginary part."""
        whole = copy.copy(self)
        whole.shapes = [shape[:-1] if pair else shape for shape, pair in zip(self.shapes, self.pairs, strict=True)]
        found = Ravel.leaves(whole, tree)
        if any(leaf.is_complex() and not pair for leaf, pair in zip(found, self.pairs, strict=True)):
            raise TypeError("f returned complex values for a real state: make the state complex, or return their .real")
        return [_pair(leaf) if pair else leaf for leaf, pair in zip(found, self.pairs, strict=True)]

    def restore(self, leaves: Sequence[Tensor]) -> Any:
        """As `Ravel.restore`, from the parts."""
        return super().restore([as_complex(x) if pair else x for x, pair in zip(leaves, self.pairs, strict=True)])


def as_real(x: Tensor) -> Tensor:
    """A complex tensor as one of its parts, (*shape, 2); a real one as it is."""
    return _pair(x) if x.is_complex() else x


def as_complex(parts: Tensor) -> Tensor:
    """The complex tensor of parts (*shape, 2), which need not lie side by side."""
    return torch.complex(parts[..., 0], parts[..., 1])


def _pair(x: Tensor) -> Tensor:
    return torch.stack([x.real, x.imag] if x.is_complex() else [x, torch.zeros_like(x)], dim=-1)
