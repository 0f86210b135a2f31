"""Linear operators that are never written out: products with a Jacobian, and with its transpose.

Source: the lazy operators of ImplicitDifferentiation.jl (Dalle, 2022) and of lineax (Rader, Lyons, Kidger, 2023).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Container, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction

from .modes import announce, in_transform
from .private_api import vector_jacobian_products
from .pytree import Tensors

Product = Callable[[Tensor], Tensor]
TAGS = ("symmetric", "positive_definite")
ROWS = 128  # of a matrix that is written out, at a time


def check_tags(tags: Sequence[str]) -> None:
    """Raise a ValueError that lists the valid tags if there is another."""
    unknown = set(tags) - set(TAGS)
    if unknown:
        raise ValueError(f"unknown operator tag {sorted(unknown)}; valid: {', '.join(TAGS)}")


@dataclasses.dataclass(frozen=True, eq=False)
class LinearOperator:
    """A linear map on matrices of shape (systems, unknowns), one square matrix A per row.

    Args:
        mv: v -> A v, row by row.
        rmv: v -> A^T v; needed by `T` and by solvers that use it.
        tags: what is known of A: "symmetric", "positive_definite" (which implies symmetric).
        preconditioner: v -> M^-1 v, an approximation of A^-1 v that must be linear in v; `T` transposes it along.
        matrix: writes A out, (systems, n, n), faster than by one product per column.
        precision: in which products are computed, where that is less than the vectors have, as under autocast; the
            solvers' default tolerance follows it.

    >>> A = torch.tensor([[2.0, 1.0], [0.0, 4.0]])
    >>> operator = LinearOperator.from_matrix(A)
    >>> operator.T.mv(torch.tensor([[1.0, 0.0]]))
    tensor([[2., 1.]])
    """

    mv: Product
    rmv: Product | None = None
    tags: tuple[str, ...] = ()
    preconditioner: Product | None = None
    matrix: Callable[[], Tensor] | None = None
    precision: torch.dtype | None = None

    def __post_init__(self) -> None:
        check_tags(self.tags)

    @classmethod
    def from_matrix(cls, matrix: Tensor, tags: Sequence[str] = ()) -> LinearOperator:
        """The operator of a dense (n, n) matrix, or of (systems, n, n) matrices."""
        return cls(
            mv=lambda v: (matrix @ v.unsqueeze(-1)).squeeze(-1),
            rmv=lambda v: (matrix.mT @ v.unsqueeze(-1)).squeeze(-1),
            tags=tuple(tags),
            matrix=(lambda: matrix) if matrix.dim() == 3 else None,
        )

    @property
    def symmetric(self) -> bool:
        """Whether A = A^T is known."""
        return bool(self.tags)

    @property
    def T(self) -> LinearOperator:
        """The transposed operator, preconditioner included."""
        if self.symmetric:
            return self
        if self.rmv is None:
            raise ValueError("this operator has no transposed product; pass rmv=")
        precondition = self.preconditioner
        back = None if precondition is None else lambda v: transposed(precondition, v)(v)
        matrix = self.matrix
        turned = None if matrix is None else lambda: matrix().mT
        return dataclasses.replace(self, mv=self.rmv, rmv=self.mv, preconditioner=back, matrix=turned)

    def damped(self, damping: float) -> LinearOperator:
        """A + damping I, of the same tags and preconditioner."""
        back, matrix = self.rmv, self.matrix

        def with_damping() -> Tensor:
            assert matrix is not None
            written = matrix()
            return written + damping * torch.eye(written.shape[-1], dtype=written.dtype, device=written.device)

        return dataclasses.replace(
            self,
            mv=lambda v: self.mv(v) + damping * v,
            rmv=None if back is None else lambda v: back(v) + damping * v,
            matrix=None if matrix is None else with_damping,
        )

    def to_dense(self, like: Tensor) -> Tensor:
        """The matrices, (systems, n, n); `like` is any (systems, n) tensor."""
        if self.matrix is not None:
            return self.matrix()
        unit = torch.zeros_like(like)
        columns = []
        for i in range(like.shape[1]):
            basis = unit.clone()
            basis[:, i] = 1.0
            columns.append(self.mv(basis))
        return torch.stack(columns, dim=2) if columns else like.new_zeros(like.shape[0], 0, 0)


def pullback(function: Callable[[Tensors], Tensors], point: Tensors) -> tuple[Tensors, Callable[[Tensors], Tensors]]:
    """function(point) and the map u -> J^T u, J the Jacobian there. Differentiable again where autograd records.

    On the ordinary tape this is `torch.autograd.grad`, about twice as fast as `torch.func.vjp`, which always keeps the
    second-order graph; `torch.func.vjp` serves inside transforms and under `inference_mode`, where no tape exists.
    """
    if in_transform() or torch.is_inference_mode_enabled():
        value, vjp = torch.func.vjp(lambda *leaves: function(leaves), *point)  # type: ignore[misc]
        return value, lambda cotangent: vjp(tuple(cotangent))
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # A fresh view: only paths through this argument count, not those through others that depend on the point.
        slot = tuple(t.view_as(t) if create_graph and t.requires_grad else t.detach().requires_grad_() for t in point)
        value = function(slot)
    return value, pullback_on_tape(value, slot, point)


def pullback_on_tape(value: Tensors, slot: Tensors, point: Tensors) -> Callable[[Tensors], Tensors]:
    """The map u -> J^T u from a recorded evaluation value = function(slot) at `point`."""
    taped = tuple(v for v in value if v.requires_grad)
    used = [(i, v.dtype) for i, v in enumerate(value) if v.requires_grad]

    def vjp(cotangent: Tensors) -> Tensors:
        if not taped:
            return tuple(torch.zeros_like(t) for t in slot)
        weights = tuple([cotangent[i] if cotangent[i].dtype == dtype else cotangent[i].to(dtype) for i, dtype in used])
        # Where nothing but our own slot could be differentiated again, the second-order graph would be wasted.
        graph = torch.is_grad_enabled() and (
            any(t.requires_grad for t in (*point, *cotangent)) or reaches_leaf(taped, {id(t) for t in slot})
        )
        found = vector_jacobian_products(taped, weights, slot, graph)
        products = tuple([torch.zeros_like(t) if g is None else g for t, g in zip(slot, found, strict=True)])
        announce(products)
        return products

    return vjp


def reaches_leaf(values: Sequence[Tensor], except_for: Container[int]) -> bool:
    """True if the tape of `values` ends in a leaf other than those whose ids are given.

    The unknowns of implicit functions are no such leaves, be they inside `values` or around.
    """
    nodes, seen = [value.grad_fn for value in values], set[Any]()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None and id(variable) not in except_for:
            return True
        if not is_unknown(node):
            nodes.extend(following for following, _ in node.next_functions)
    return False


def is_unknown(node: Any) -> bool:
    """Whether a node of a tape stands for the unknown of an implicit function, which is a leaf of its own."""
    return isinstance(node, BackwardCFunction) and getattr(node, "ends_here", False)


def transposed(linear: Callable[..., Tensor], like: Tensor) -> Callable[[Tensor], Tensor]:
    """u -> L^T u of a linear function v -> L v, from the derivative of L (which is L, at any point)."""
    return lambda u: pullback(lambda v: (linear(v[0]),), (torch.zeros_like(like),))[1]((u,))[0]


def jacobian(function: Product, point: Tensor, tags: Sequence[str] = ()) -> LinearOperator:
    """The Jacobian of a function on matrices (systems, unknowns), system by system, as products."""
    _, vjp = pullback(lambda x: (function(x[0]),), (point,))
    return from_pullback(lambda u: vjp((u,))[0], point, tags)


def from_pullback(rmv: Product, like: Tensor, tags: Sequence[str] = ()) -> LinearOperator:
    """The operator A of a pullback u -> A^T u on tensors like `like`."""

    def matrix() -> Tensor:
        return rows_of(rmv, like)

    if tags:  # of a symmetric Jacobian the pullback is enough, which costs half of the pullback of the pullback
        return LinearOperator(rmv, rmv, tuple(tags), matrix=matrix)

    @functools.cache
    def jvp() -> Callable[[Tensors], Tensors]:
        # u -> A^T u is linear, and the pullback of that is v -> A v.
        with torch.enable_grad():
            return pullback(lambda u: (rmv(u[0]),), (torch.zeros_like(like),))[1]

    def mv(v: Tensor) -> Tensor:
        return jvp()((v,))[0]

    return LinearOperator(mv, rmv, matrix=matrix)


def rows_of(rmv: Product, like: Tensor) -> Tensor:
    """The matrices A, (systems, n, n), of the pullback u -> A^T u: their rows are those of the unit vectors."""
    n = like.shape[1]
    if not n:
        return like.new_zeros(like.shape[0], 0, 0)
    units = torch.eye(n, dtype=like.dtype, device=like.device).unsqueeze(1).expand(n, *like.shape)
    return products(rmv, units).transpose(0, 1)


def products(product: Product, vectors: Tensor) -> Tensor:
    """The product of each of the vectors (k, systems, n), in one batch where that can be."""
    k = len(vectors)
    try:
        images = torch.func.vmap(product, chunk_size=ROWS if k > ROWS else None)(vectors)
    except RuntimeError:  # a backward that cannot be vmapped, that of a user's autograd function for example
        images = torch.stack([product(vector) for vector in vectors])
    announce([images])  # a vmap hands them out
    return images
