"""Paths through irregular series with missing values: what drives a neural CDE.

All take series x (..., length, channels), in which NaN stands for what was not observed, at common times t (length,),
and give a `PiecewisePolynomial` through what was. At times before the first and after the last observation of a channel
the path goes through that observation's value, so that series of different lengths can be padded with NaN (there it is
the constant, but for the natural spline, which swings into it); a channel without any observation is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..implicit import Tridiagonal
from ..implicit.modes import in_transform

Times = Tensor | Sequence[float] | None


class PiecewisePolynomial(NamedTuple):
    """x(t) = sum_k coefficients[i, k] (t - knots[i])^k between knots i and i + 1.

    It goes through `torch.func` and pytrees as the two tensors that it is made of. Beyond the ends the first and the
    last polynomial go on; at a knot the right one of two counts.

    Attributes:
        knots: (length,), increasing.
        coefficients: (length - 1, degree + 1, ..., channels), the batch of the series in place of the dots.

    >>> path = PiecewisePolynomial(torch.tensor([0.0, 1.0, 3.0]), torch.tensor([[[0.0], [2.0]], [[2.0], [-1.0]]]))
    >>> path(torch.tensor([0.5, 2.0])).flatten(), path.derivative(2.0)
    (tensor([1., 1.]), tensor([-1.]))
    """

    knots: Tensor
    coefficients: Tensor

    def __call__(self, t: Tensor | float) -> Tensor:
        """x(t) at times of any shape, (*t.shape, ..., channels)."""
        t = torch.as_tensor(t, dtype=None if isinstance(t, Tensor) else self.knots.dtype, device=self.knots.device)
        inner, at = self.knots[1:-1], t.detach()
        # `bucketize` has no rule for transforms.
        piece = (at.unsqueeze(-1) >= inner).sum(-1) if in_transform() else torch.bucketize(at, inner, right=True)
        piece = piece.reshape(-1)
        s = t - self.knots.index_select(0, piece).view(t.shape)
        found = self.coefficients.index_select(0, piece)
        if t.dim():
            s = s.reshape(*t.shape, *(1,) * (self.coefficients.dim() - 2))
            found = found.unflatten(0, t.shape)
        else:
            found = found.squeeze(0)
        s, terms = s.to(found.dtype), found.unbind(t.dim())
        value = terms[-1]
        for term in reversed(terms[:-1]):
            value = torch.addcmul(term, value, s)
        return value

    def differentiate(self) -> PiecewisePolynomial:
        """dx/dt, a path of one degree less; the derivative of a constant is the constant 0."""
        powers = torch.arange(self.degree + 1, dtype=self.coefficients.dtype, device=self.coefficients.device)
        scaled = self.coefficients * powers.reshape(-1, *(1,) * (self.coefficients.dim() - 2))
        return PiecewisePolynomial(self.knots, scaled[:, 1:] if self.degree else scaled)

    def derivative(self, t: Tensor | float) -> Tensor:
        """dx/dt at times of any shape, (*t.shape, ..., channels); for many calls `differentiate` once."""
        return self.differentiate()(t)

    @property
    def interval(self) -> Tensor:
        """The first and the last knot, (2,)."""
        return self.knots[:: len(self.knots) - 1]

    @property
    def degree(self) -> int:
        """Of the polynomials."""
        return self.coefficients.shape[1] - 1


def piecewise_linear(x: Tensor, t: Times = None) -> PiecewisePolynomial:
    """Straight lines between observations. The derivative jumps at knots.

    Args:
        x: (..., length, channels), NaN where nothing was observed.
        t: (length,), increasing; None: 0, 1, 2, ...

    Raises:
        ValueError: a series has no observation at all; times are not finite and increasing; shapes do not fit.

    >>> path = piecewise_linear(torch.tensor([[torch.nan], [1.0], [torch.nan], [5.0]]))
    >>> path(torch.tensor([0.0, 1.0, 2.0, 3.0])).flatten()
    tensor([1., 1., 3., 5.])
    """
    t = checked_times(x, t)
    return _lines(fill_missing(x, t), t)


def rectilinear(x: Tensor, time_channel: int = 0) -> PiecewisePolynomial:
    """Steps: between two observations first the time goes on, then the values change. The derivative jumps at knots.

    Causal: the path before an observation does not depend on it (but for values that miss at the start, which are
    the first ones observed). The knots are 0, 1, ..., 2 length - 2: which they are makes no difference to a CDE.

    Args:
        x: (..., length, channels), NaN where nothing was observed; one channel is the time, without NaN.
        time_channel: which.

    Raises:
        ValueError: as for `piecewise_linear`; there is no such channel, or it has NaN.

    Source: Morrill, Kidger, Yang, Lyons, "Neural Controlled Differential Equations for Online Prediction Tasks", 2021.

    >>> path = rectilinear(torch.tensor([[0.0, 3.0], [2.0, 4.0]]))
    >>> path(torch.tensor([0.0, 1.0, 2.0]))
    tensor([[0., 3.],
            [2., 3.],
            [2., 4.]])
    """
    t = checked_times(x, None)
    if not -x.shape[-1] <= time_channel < x.shape[-1]:
        raise ValueError(f"time_channel={time_channel}: x has the channels 0 to {x.shape[-1] - 1}")
    if not in_transform() and bool(x[..., time_channel].isnan().any()):
        raise ValueError("the channel of time has NaN: after the end of a series, repeat its last time")
    before, _ = _neighbours(x)
    place = torch.where(before < 0, len(t), before).clamp(max=len(t) - 1)
    first = fill_missing(x, t)  # its first observation stands before it as well
    held = torch.where(before < 0, first, x.nan_to_num().gather(-2, place)).repeat_interleave(2, -2)
    is_time = torch.arange(x.shape[-1], device=x.device) == time_channel % x.shape[-1]
    steps = torch.where(is_time, held[..., 1:, :], held[..., :-1, :])
    return _lines(steps, torch.arange(steps.shape[-2], dtype=t.dtype, device=t.device))


def hermite_cubic(x: Tensor, t: Times = None) -> PiecewisePolynomial:
    """Cubic Hermite spline with backward differences: its slope at a knot is that of the straight line before it.

    Missing values between observations lie on the line between these. The path up to a knot depends on the
    observations up to there and the next one alone; its derivative is continuous, and has kinks at knots.

    Args, errors: as for `piecewise_linear`.

    Source: Morrill, Kidger, Yang, Lyons, "Neural Controlled Differential Equations for Online Prediction Tasks", 2021.

    >>> path = hermite_cubic(torch.tensor([[0.0], [1.0], [1.0]]))
    >>> path.derivative(torch.tensor([0.0, 1.0, 2.0])).flatten()
    tensor([1., 1., 0.])
    """
    t = checked_times(x, t)
    x = fill_missing(x, t)
    h = t.diff().unsqueeze(-1)
    slope = x.diff(dim=-2) / h
    start = torch.cat([slope[..., :1, :], slope[..., :-1, :]], -2)
    bend = (slope - start) / h
    return _path(t, x.dtype, x[..., :-1, :], start, 2 * bend, -bend / h)


def natural_cubic(x: Tensor, t: Times = None) -> PiecewisePolynomial:
    """The natural cubic spline through the observations of each channel, twice continuously differentiable.

    Each channel has knots where it was observed, and at the times before the first and after the last observation, with
    their values, as torchcde has it. The path depends on all observations, later ones included.

    Args, errors: as for `piecewise_linear`.

    Source: Kidger, Morrill, Foster, Lyons, "Neural Controlled Differential Equations for Irregular Time Series",
    2020, [arXiv:2005.08926](https://arxiv.org/abs/2005.08926).

    >>> path = natural_cubic(torch.tensor([[0.0], [1.0], [torch.nan], [0.0]]), [0.0, 1.0, 1.5, 2.0])
    >>> path(torch.tensor([0.5, 1.5])).flatten()  # (3 t - t^3) / 2
    tensor([0.6875, 0.6875])
    """
    t = checked_times(x, t)
    before, after = _neighbours(x)
    # Constant outside of what was observed: there it counts as observed.
    known = ~x.isnan() | (before < 0) | (after == len(t))
    known, x = known.mT, torch.where(known, fill_missing(x, t), 0.0).mT  # (..., channels, length), as matrices want it

    order = (~known).to(torch.uint8).argsort(dim=-1, stable=True)  # what is known of each channel comes first
    times, values = t[order], x.gather(-1, order)
    number = torch.arange(len(t), device=t.device)
    inside = (number > 0) & (number < known.sum(-1, keepdim=True) - 1)  # equations of knots between others
    h = torch.where(number[1:] < known.sum(-1, keepdim=True), times.diff(), 1.0)
    slope = values.diff() / h
    zero = torch.zeros_like(values[..., :1])
    jump = torch.cat([zero, 6 * slope.diff(), zero], -1)
    width = torch.cat([zero, 2 * (h[..., 1:] + h[..., :-1]), zero], -1)
    second = Tridiagonal(
        torch.where(inside[..., 1:], h, 0.0), torch.where(inside, width, 1.0), torch.where(inside[..., :-1], h, 0.0)
    ).solve(torch.where(inside, jump, 0.0))
    bend = second.diff() / (6 * h)
    start = slope - h * (second[..., :-1] / 2 + bend * h)

    # From the polynomial of each channel's own piece to that which begins at each of the times.
    piece = (known.cumsum(-1) - 1)[..., :-1]
    of_piece = (part[..., : len(t) - 1].gather(-1, piece) for part in (values, start, second / 2, bend))
    a, b, c, d = of_piece
    s = t[:-1] - times.gather(-1, piece)
    shifted = a + s * (b + s * (c + s * d)), b + s * (2 * c + 3 * s * d), c + 3 * s * d, d
    return _path(t, x.dtype, *(part.mT for part in shifted))


INTERPOLATIONS: dict[str, Callable[[Tensor, Times], PiecewisePolynomial]] = {
    "hermite": hermite_cubic,
    "linear": piecewise_linear,
    "natural": natural_cubic,
}


def fill_missing(x: Tensor, t: Tensor) -> Tensor:
    """x (..., length, channels) with numbers for NaN, at times t (length,).

    They lie on the line between the observations of the channel before and after, are the nearest one outside of
    these, and 0 in a channel without any.

    >>> x, t = torch.tensor([torch.nan, 1.0, torch.nan, 4.0]), torch.tensor([0.0, 1.0, 2.0, 4.0])
    >>> fill_missing(x.unsqueeze(1), t).flatten()
    tensor([1., 1., 2., 4.])
    """
    before, after = _neighbours(x)
    last = len(t) - 1
    left = torch.where(before < 0, after, before).clamp(0, last)
    right = torch.where(after > last, before, after).clamp(0, last)
    numbers = x.nan_to_num(0.0)
    start, span = t[left], t[right] - t[left]
    weight = torch.where(span > 0, (t.unsqueeze(-1) - start) / torch.where(span > 0, span, 1.0), 0.0)
    line = torch.lerp(numbers.gather(-2, left), numbers.gather(-2, right), weight.to(x.dtype))
    return torch.where(x.isnan(), line, x)


def checked_times(x: Any, t: Times) -> Tensor:
    """The times as a tensor, beside series of this shape; an error for what cannot be interpolated."""
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() < 2:
        shape = f"{tuple(x.shape)}, {x.dtype}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
        raise ValueError(f"x must be a floating-point tensor (..., length, channels), got {shape}")
    if t is None:
        t = torch.arange(x.shape[-2], device=x.device)
    t = torch.as_tensor(t, device=x.device)
    t = t if t.dtype == torch.float64 else t.to(x.dtype)
    if t.dim() != 1 or len(t) != x.shape[-2]:
        raise ValueError(
            f"t must hold one time for each row of the series, ({x.shape[-2]},), got {tuple(t.shape)}: series of other "
            "lengths or times are padded with NaN, at the union of all times"
        )
    if len(t) < 2:
        raise ValueError(f"a path needs two times or more, got {len(t)}")
    if in_transform():  # values cannot be looked at
        return t
    if not bool((t.diff() > 0).all()) or not bool(t.isfinite().all()):
        raise ValueError("the times t must be finite and strictly increasing: sort them, and merge equal ones")
    if bool(x.isinf().any()):
        raise ValueError("x has infinite values: use NaN for what was not observed")
    empty = x.isnan().flatten(-2).all(-1)
    if bool(empty.any()):
        which = empty.nonzero()[0].tolist()
        name = f"series {which[0] if len(which) == 1 else which}" if which else "the series"
        raise ValueError(f"{name} has no observation, all of it is NaN: leave it out")
    return t


def _neighbours(x: Tensor) -> tuple[Tensor, Tensor]:
    """Of each entry of x (..., length, channels), the last place observed up to it, or -1; the next one, or length."""
    length = x.shape[-2]
    place = torch.arange(length, device=x.device).unsqueeze(-1).expand(x.shape)
    missing = x.isnan()
    before = place.masked_fill(missing, -1).cummax(-2).values
    after = place.masked_fill(missing, length).flip(-2).cummin(-2).values.flip(-2)
    return before, after


def _lines(x: Tensor, t: Tensor) -> PiecewisePolynomial:
    return _path(t, x.dtype, x[..., :-1, :], x.diff(dim=-2) / t.diff().unsqueeze(-1))


def _path(t: Tensor, dtype: torch.dtype, *parts: Tensor) -> PiecewisePolynomial:
    """Of coefficients (..., length - 1, channels), one tensor for each power."""
    return PiecewisePolynomial(t, torch.stack([part.to(dtype) for part in parts]).movedim(-2, 0).contiguous())
