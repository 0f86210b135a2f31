"""Muon: momentum whose updates are orthogonal matrices; and Adam or SGD for what is not a matrix."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

QUINTIC = 3.4445, -4.7750, 2.0315  # of steep slope at zero: singular values come to lie between .7 and 1.2
TINY = 1e-7
SQUARES, EPS = 0.95, 1e-8  # of Adam


class Muon(Optimizer):
    """Muon on kernels, and SGD or Adam on what else there is.

    Of a group with ``orthogonal``, each parameter (o, ...) is a matrix of o rows, and its update is near the nearest
    orthogonal matrix O of the momentum (its singular values are set to about one, by a Newton-Schulz iteration):

        m <- momentum m + grad,    w <- w - lr sqrt(max(1, rows / columns)) O(grad + momentum m)

    The matrices of one shape are taken together. Other groups are stepped by SGD with Nesterov's momentum, or, with
    ``adaptive``, by AdamW with betas (momentum, .95).

    Args:
        groups: parameters or parameter groups; each may have all the options below, and `orthogonal` (True) and
            `adaptive` (False).
        lr, momentum, weight_decay: as of SGD; the decay is decoupled, w <- (1 - lr weight_decay) w.
        steps: of Newton-Schulz.
        unit_rows: scale each kernel to a root mean square row norm of one before its update; for kernels whose size
            does not matter, as before a normalisation.

    Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024; `torch.optim.Muon`, which
    takes matrices alone, one after the other.

    Attributes:
        found_inf: as of torch's fused optimisers, where 1 (on the device) the next step leaves all as it was; None: 0.
    """

    found_inf: Tensor | None = None

    def __init__(
        self,
        groups: Any,
        *,
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        steps: int = 5,
        unit_rows: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "steps": steps,
            "unit_rows": unit_rows,
            "orthogonal": True,
            "adaptive": False,
        }
        super().__init__(groups, defaults)
        self._counted: list[dict[str, Any]] = []  # states that the last step counted
        for group in self.param_groups:
            if group["orthogonal"] and any(p.ndim < 2 for p in group["params"]):
                raise ValueError("Muon takes matrices and kernels: put vectors into a group with orthogonal=False")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._counted = []
        for group in self.param_groups:
            stepped = [p for p in group["params"] if p.grad is not None]
            changed = [x for p in stepped for x in (p, *self._averages(p, group))]
            with unless(self.found_inf, changed):
                self._step(group, stepped)
        return loss

    def uncount(self) -> None:
        """The last step was none: `found_inf` was 1."""
        for state in self._counted:
            state["step"] -= 1
        self._counted = []

    def _averages(self, p: Tensor, group: dict[str, Any]) -> list[Tensor]:
        """The tensors of its state."""
        state, adaptive = self.state[p], group["adaptive"] and not group["orthogonal"]
        names = ("mean", "square") if adaptive else ("momentum",)
        for name in names:
            if name not in state:
                state[name] = torch.zeros_like(p)
        if adaptive:
            state.setdefault("step", 0)
        return [state[name] for name in names]

    def _step(self, group: dict[str, Any], stepped: list[Tensor]) -> None:
        direction = self._adapted if group["adaptive"] and not group["orthogonal"] else self._momentum
        updates = [(p, direction(p, group["momentum"])) for p in stepped]
        if group["orthogonal"]:
            updates = self._orthogonal(updates, group["steps"])
        for p, update in updates:
            if group["orthogonal"] and group["unit_rows"]:
                p.mul_(len(p) ** 0.5 / (p.norm() + TINY))
            if group["weight_decay"]:
                p.mul_(1 - group["lr"] * group["weight_decay"])
            p.add_(update, alpha=-group["lr"])

    def _momentum(self, p: Tensor, momentum: float) -> Tensor:
        """grad + momentum m, after m <- momentum m + grad."""
        return p.grad + momentum * self.state[p]["momentum"].mul_(momentum).add_(p.grad)  # type: ignore[operator]

    def _adapted(self, p: Tensor, momentum: float) -> Tensor:
        """Adam's: the mean of the gradients over the root of the mean of their squares."""
        state = self.state[p]
        state["step"] += 1
        self._counted.append(state)
        means = []
        for name, value, beta in (("mean", p.grad, momentum), ("square", p.grad.square(), SQUARES)):  # type: ignore[union-attr]
            state[name].lerp_(value, 1 - beta)
            means.append(state[name] / (1 - beta ** state["step"]))
        return means[0] / (means[1].sqrt() + EPS)

    @staticmethod
    def _orthogonal(updates: list[tuple[Tensor, Tensor]], steps: int) -> list[tuple[Tensor, Tensor]]:
        by_shape = defaultdict(list)
        for p, update in updates:
            by_shape[p.flatten(1).shape, p.dtype, p.device].append((p, update))
        found = []
        for (shape, *_), alike in by_shape.items():
            scale = max(1.0, shape[0] / shape[1]) ** 0.5
            matrices = orthogonalized(torch.stack([update.flatten(1) for _, update in alike]), steps)
            found += [(p, scale * matrix.view(p.shape)) for (p, _), matrix in zip(alike, matrices, strict=True)]
        return found


@contextmanager
def unless(skipped: Tensor | None, tensors: Sequence[Tensor]) -> Iterator[None]:
    """What changes inside in the tensors is taken back where `skipped`, on their device, is not 0; None: it is 0."""
    before = [] if skipped is None else [x.clone() for x in tensors]
    yield
    if skipped is not None:
        for x, old in zip(tensors, before, strict=True):
            x.copy_(torch.where(skipped != 0, old, x))


def orthogonalized(matrices: Tensor, steps: int = 5) -> Tensor:
    """U V^T, roughly, of matrices U S V^T, (n, rows, columns): all singular values are brought to about one.

    >>> torch.linalg.svdvals(orthogonalized(torch.diag(torch.tensor([3.0, 1.0, 0.5]))[None]))[0].round(decimals=1)
    tensor([1.1000, 1.0000, 0.7000])
    """
    a, b, c = QUINTIC
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + TINY)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x
