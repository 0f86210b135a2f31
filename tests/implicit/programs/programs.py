"""Random programs with a known answer, and the exact derivatives of their optimality conditions."""

import torch
from torch import Tensor

F64 = torch.float64


def random_program(
    batch: tuple[int, ...] = (), n: int = 4, p: int = 1, m: int = 5, seed: int = 0, rank: int | None = None
) -> tuple[Tensor, ...]:
    """(P, q, A, b, G, h) with a known point that meets the constraints; P of the given rank, None: regular."""
    source = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*batch, *shape, dtype=F64, generator=source)

    root = draw(n, n if rank is None else rank)
    P = root @ root.mT / n + (0.1 * torch.eye(n, dtype=F64) if rank is None else 0.0)
    q, A, G, inside = draw(n), draw(p, n), draw(m, n), draw(n, 1)
    h = (G @ inside).squeeze(-1) + torch.rand(*batch, m, dtype=F64, generator=source)
    return P, q, A, (A @ inside).squeeze(-1), G, h


def with_box(arguments: tuple[Tensor, ...], size: float = 5.0) -> tuple[Tensor, ...]:
    """The program with |x_i| <= size among its inequalities."""
    P, q, A, b, G, h = arguments
    eye = torch.eye(q.shape[-1], dtype=q.dtype).expand(*q.shape[:-1], -1, -1)
    bounds = torch.full((*q.shape[:-1], 2 * q.shape[-1]), size, dtype=q.dtype)
    return P, q, A, b, torch.cat([G, eye, -eye], dim=-2), torch.cat([h, bounds], dim=-1)


def optimality(arguments: tuple[Tensor, ...], point: tuple[Tensor, ...]) -> float:
    """The largest violation of the conditions of Karush, Kuhn and Tucker."""
    P, q, A, b, G, h = arguments
    x, y, z, s = (t.unsqueeze(-1) for t in point)
    violations = [
        P @ x + q.unsqueeze(-1) + A.mT @ y + G.mT @ z,
        A @ x - b.unsqueeze(-1),
        G @ x + s - h.unsqueeze(-1),
        (-s).clamp(min=0),
        (-z).clamp(min=0),
        s * z,
    ]
    return max(v.abs().max().item() for v in violations if v.numel())
