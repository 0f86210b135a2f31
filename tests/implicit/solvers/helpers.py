"""What the tests of the solvers share: known answers; counters of calls, host reads and memory."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from deqzoo.implicit import Anderson, Broyden, Newton, NewtonKrylov, Picard

F64 = torch.float64
DTYPES = [torch.float32, torch.float64]
FIXED_POINT_SOLVERS = {
    "picard": Picard,
    "anderson": Anderson,
    "broyden": Broyden,
    "newton": Newton,
    "newton_krylov": NewtonKrylov,
}
ITERATIONS = {name: FIXED_POINT_SOLVERS[name] for name in ("picard", "anderson", "broyden")}  # one f per step

_HOST_READS = {
    "tolist",
    "item",
    "numpy",
    "cpu",
    "equal",
    "allclose",
    "__bool__",
    "__int__",
    "__float__",
    "__index__",
}
_HIDDEN_READS = {"aten::_linalg_check_errors", "aten::nonzero", "aten::masked_select", "aten::equal"}


class Recorded:
    """A function that keeps a copy of the first argument of each call."""

    def __init__(self, f):
        self.f, self.points = f, []

    def __call__(self, z, *args):
        self.points.append(z.detach().clone())
        return self.f(z, *args)

    @property
    def calls(self) -> int:
        return len(self.points)


class HostReads(TorchFunctionMode):
    """Counts how often the host reads a tensor's value: each is a synchronisation on an accelerator."""

    def __init__(self):
        super().__init__()
        self.count = 0
        self._below = _HiddenReads(self)

    def __enter__(self):
        self._below.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._below.__exit__(*error)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.count += getattr(func, "__name__", "") in _HOST_READS
        return func(*args, **(kwargs or {}))


class _HiddenReads(TorchDispatchMode):
    """Operators that read values on their own, without a call that Python sees."""

    def __init__(self, counter):
        super().__init__()
        self.counter = counter

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.counter.count += func._schema.name in _HIDDEN_READS
        return func(*args, **(kwargs or {}))


class PeakBytes(TorchDispatchMode):
    """Largest number of bytes alive at once in tensors that were made inside."""

    def __init__(self):
        super().__init__()
        self.alive = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        before = {storage._cdata for storage in _storages((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for storage in _storages(result):
            if storage._cdata not in self._known | before:
                self._known.add(storage._cdata)
                self.alive += storage.nbytes()
                weakref.finalize(storage, self._free, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.alive)
        return result

    def _free(self, key, size):
        self._known.discard(key)
        self.alive -= size


def _storages(tree):
    return [t.untyped_storage() for t in torch.utils._pytree.tree_leaves(tree) if isinstance(t, Tensor)]


def generator(seed: int = 0) -> torch.Generator:
    """A source of random numbers that depends on nothing else."""
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    """Normal numbers that depend on the seed alone; the same in all dtypes, up to rounding."""
    return torch.randn(shape, generator=generator(seed), dtype=F64).to(dtype)


def matrix_of_norm(n: int, norm: float, seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    """An (n, n) matrix with this spectral norm, so that z -> A z + x contracts by it."""
    matrix = randn(n, n, seed=seed)
    return (norm * matrix / torch.linalg.matrix_norm(matrix, 2)).to(dtype)


def orthogonal(n: int, seed: int = 0) -> Tensor:
    """An orthogonal (n, n) matrix."""
    return torch.linalg.qr(randn(n, n, seed=seed)).Q


def symmetric_matrix(eigenvalues: Tensor, seed: int = 0) -> Tensor:
    """A symmetric matrix with these eigenvalues."""
    q = orthogonal(len(eigenvalues), seed)
    return (q * eigenvalues) @ q.T


def affine(matrix: Tensor):
    """The map (z, x) -> z A^T + x on rows; its fixed point is `affine_answer(matrix, x)`."""
    return lambda z, x: z @ matrix.T + x


def affine_answer(matrix: Tensor, x: Tensor) -> Tensor:
    """(I - A)^-1 x for each row of x, in float64."""
    eye = torch.eye(len(matrix), dtype=F64)
    return torch.linalg.solve(eye - matrix.double(), x.double().unsqueeze(-1)).squeeze(-1)


def true_residual(f, z: Tensor, *args, stop: str = "rel") -> Tensor:
    """||f(z) - z|| (/ ||f(z)||) of each row, computed anew."""
    fz = f(z, *args)
    norm = (fz - z).flatten(1).norm(dim=1)
    return norm / fz.flatten(1).norm(dim=1) if stop == "rel" else norm


def assert_close(actual, expected, tol: float) -> None:
    """Normwise: ||actual - expected|| <= tol ||expected||."""
    actual, expected = actual.detach().double(), expected.detach().double()
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    error, scale = (actual - expected).norm().item(), expected.norm().item()
    assert error <= tol * scale, f"relative error {error / scale if scale else error:.2e} above {tol:.0e}"


every_solver = pytest.mark.parametrize("solver", FIXED_POINT_SOLVERS.values(), ids=FIXED_POINT_SOLVERS.keys())
every_iteration = pytest.mark.parametrize("solver", ITERATIONS.values(), ids=ITERATIONS.keys())
GAINS = torch.tensor([0.05, 0.8, 0.5, 0.7], dtype=F64)


def uneven(z, x, gain):
    """Systems whose contraction, and so their number of steps, differs."""
    return gain.unsqueeze(1) * torch.cos(z) + x


def batch():
    """Start and arguments of `uneven`, four systems of three unknowns."""
    x = randn(4, 3, seed=1)
    return torch.zeros_like(x), x, GAINS
