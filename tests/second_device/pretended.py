"""A pretended accelerator, ``gpux``: its tensors lie on the CPU, but PyTorch and Lightning take it for another device.

It shows without a GPU what a first run on one would show:

- an operation on tensors of two devices raises, as on a GPU;
- `Waits` counts where the host waits for the device: it reads a value (`item`, `tolist`, `bool`, copies to the CPU),
  sends one from memory that is not pinned, or asks for something whose size depends on values (`nonzero`, masks as
  indices). On a GPU the queue of kernels runs empty at each of them.

It is a backend of PyTorch's key PrivateUse1, written in Python: a tensor of it is a `PretendedTensor`, which holds a
CPU tensor, and `dispatch` is what every operation on one goes through. Numbers come out as on the CPU, bit for bit.

What it does not show: speed, memory, kernels that a GPU lacks, numbers as a GPU rounds them, NCCL.

`register()` makes it known to PyTorch, and to Lightning as ``accelerator="gpux"`` with ``strategy="gpux"``. The API is
experimental: `why_not()` says what this version of PyTorch lacks, if anything.
"""

import collections
import sys
import threading
from typing import Any, ClassVar

import torch
from lightning.pytorch.accelerators import Accelerator, AcceleratorRegistry
from lightning.pytorch.strategies import SingleDeviceStrategy, StrategyRegistry
from torch.utils import _pytree as pytree
from torch.utils._mode_utils import no_dispatch

NAME = "gpux"
DEVICE = f"{NAME}:0"

# Operations that read a value, or whose result has a size that depends on values.
READS = {
    *("_local_scalar_dense", "item", "equal", "is_nonzero", "_linalg_check_errors"),
    *("nonzero", "masked_select", "bincount", "_unique2", "unique_dim", "unique_consecutive"),
}
INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
COPIES = {"copy_", "_to_copy"}
OURS = "deqzoo", "lightning", "torch/optim", "torchmetrics"  # where a wait may come from


class Waits:
    """Counts the waits of the host within a ``with`` statement, of all threads, by where they come from.

    with Waits() as waits:
        x.sum().item()
    assert waits.total == 1, waits
    """

    _open: ClassVar[list["Waits"]] = []
    made: ClassVar[int] = 0  # in this process

    def __init__(self) -> None:
        self.found: collections.Counter[str] = collections.Counter()

    def __enter__(self) -> "Waits":
        self._open.append(self)
        return self

    def __exit__(self, *_: Any) -> None:
        self._open.remove(self)

    @property
    def total(self) -> int:
        """How many."""
        return self.found.total()

    def __str__(self) -> str:
        """Each place with its number of waits."""
        return "\n".join(f"{count:5d} {place}" for place, count in self.found.most_common())

    @classmethod
    def add(cls, kind: str) -> None:
        """One more, for all that are counting now."""
        cls.made += 1
        if cls._open:
            place = f"{kind} at {_place()}"
            for waits in cls._open:
                waits.found[place] += 1


def _place() -> str:
    """The three innermost lines of code that is not PyTorch's own."""
    found: list[str] = []
    frame = sys._getframe(2)
    while frame is not None and len(found) < 3:
        name = frame.f_code.co_filename
        if any(part in name for part in OURS) and name != __file__:
            found.append(f"{name.split('site-packages/')[-1].split('/deqzoo/', 1)[-1]}:{frame.f_lineno}")
        frame = frame.f_back  # type: ignore[assignment]
    return " < ".join(found) or threading.current_thread().name


class PretendedTensor(torch.Tensor):
    """A tensor of the device: `raw` is the CPU tensor that it is in truth."""

    raw: torch.Tensor

    @staticmethod
    def __new__(cls, raw: torch.Tensor) -> "PretendedTensor":
        with torch.inference_mode(False):  # PyTorch refuses chunks of a tensor that was made here in inference mode
            made = torch.Tensor._make_wrapper_subclass(
                cls,
                raw.shape,
                strides=raw.stride(),
                storage_offset=raw.storage_offset(),
                dtype=raw.dtype,
                device=torch.device(DEVICE),
            )
        made.raw = raw
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(func, args, kwargs or {})

    def __repr__(self, **_: Any) -> str:
        return f"pretended({self.raw!r})"

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        """With it, Module.to swaps parameters in place, so that those that are tied stay so."""
        return ["raw"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, torch.Tensor], *_: Any) -> "PretendedTensor":
        return PretendedTensor(inner["raw"])

    def tolist(self) -> Any:
        Waits.add("tolist")
        return self.raw.tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError(f"can't convert a {NAME} tensor to numpy: use .cpu() first")

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError(f"can't convert a {NAME} tensor to numpy: use .cpu() first")

    def cpu(self, **_: Any) -> torch.Tensor:
        return self.to("cpu")

    def __deepcopy__(self, memo: dict[int, Any]) -> "PretendedTensor":
        copy = PretendedTensor(self.raw.detach().clone()).requires_grad_(self.requires_grad)
        copy.__class__ = self.__class__
        return memo.setdefault(id(self), copy)


def _wrap(x: Any) -> Any:
    return PretendedTensor(x) if isinstance(x, torch.Tensor) and not isinstance(x, PretendedTensor) else x


def _raw(x: Any) -> Any:
    return x.raw if isinstance(x, PretendedTensor) else x


def _is_here(device: Any) -> bool:
    return torch.device(device).type == NAME


def dispatch(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """An operation with a tensor of the device, or that is asked to make one."""
    name = func._schema.name.partition("::")[2]
    if name in COPIES:
        return _copied(func, name, args, kwargs)
    tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    device = kwargs.get("device")
    here = _is_here(device) if device is not None else any(isinstance(x, PretendedTensor) for x in tensors)
    if any(isinstance(x, PretendedTensor) for x in tensors):
        _check(func, name, args, kwargs, tensors)
    if (fused := FUSED.get(name)) is not None:
        return pytree.tree_map(_wrap, fused(*pytree.tree_map(_raw, args)))
    plain = {key: value for key, value in kwargs.items() if key != "pin_memory"}
    if device is not None:
        plain["device"] = "cpu"
    if name == "_efficientzerotensor":  # has no memory, which only the layers above know
        func = torch.ops.aten.zeros.default
    result = func(*pytree.tree_map(_raw, args), **pytree.tree_map(_raw, plain))
    if not here:
        return result
    if torch.Tag.inplace_view in func.tags:  # unsqueeze_ and the like: the shape that is told changes too
        with no_dispatch():
            func(*args, **kwargs)
        return args[0]
    # What is changed in place, or written to by out=, is the very tensor that came in.
    known = {id(_raw(x)): x for x in tensors if isinstance(x, PretendedTensor)}
    return pytree.tree_map(lambda x: known.get(id(x)) if id(x) in known else _wrap(x), result)


def _check(func: Any, name: str, args: Any, kwargs: dict[str, Any], tensors: list[torch.Tensor]) -> None:
    """Raise for tensors of two devices; count what waits."""
    for x in tensors:
        if isinstance(x, PretendedTensor) or x.dim() == 0:  # as a GPU takes numbers in tensors of the CPU
            continue
        if name not in INDEXED:
            shapes = [(tuple(x.shape), x.device.type) for x in tensors]
            raise RuntimeError(f"Expected all tensors to be on the same device: {func} of {shapes} at {_place()}")
        Waits.add("index from the CPU")
    indices = args[1] if name in INDEXED else ()
    if any(isinstance(i, PretendedTensor) and i.dtype in (torch.bool, torch.uint8) for i in indices if i is not None):
        Waits.add("mask as index")
    if name in READS or (name == "repeat_interleave" and kwargs.get("output_size") is None):
        Waits.add(name)


def _copied(func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
    """Between devices, or on one of them; from pinned memory, and into what is pinned for it, nobody waits."""
    if name == "copy_":
        into, source, *rest = args
        free = bool(rest[0] if rest else kwargs.get("non_blocking"))
        _count_copy(source, isinstance(into, PretendedTensor), free)
        func(_raw(into), _raw(source))
        return into
    source, device = args[0], kwargs.get("device")
    here = isinstance(source, PretendedTensor) if device is None else _is_here(device)
    _count_copy(source, here, bool(kwargs.get("non_blocking")))
    rest = {key: value for key, value in kwargs.items() if key not in ("device", "pin_memory", "non_blocking")}
    result = func(_raw(source), **rest)
    return _wrap(result) if here else result


def _count_copy(source: torch.Tensor, here: bool, non_blocking: bool) -> None:
    if isinstance(source, PretendedTensor) and not here and not non_blocking:
        Waits.add("copy to the CPU")
    if not isinstance(source, PretendedTensor) and here and not (non_blocking and source.is_pinned()):
        Waits.add("copy from the CPU" if source.is_pinned() else "copy from memory that is not pinned")


def _gru_cell(
    inputs: torch.Tensor, hidden: torch.Tensor, h: torch.Tensor, b: Any = None, c: Any = None
) -> tuple[torch.Tensor, ...]:
    """A fused kernel that the CPU lacks, which PyTorch calls on any other device."""
    inputs, hidden = (x if bias is None else x + bias for x, bias in ((inputs, b), (hidden, c)))
    (ri, zi, ni), (rh, zh, nh) = inputs.chunk(3, 1), hidden.chunk(3, 1)
    r, z = (ri + rh).sigmoid(), (zi + zh).sigmoid()
    n = (ni + r * nh).tanh()
    return (h - n) * z + n, torch.cat([r, z, n, h, nh], 1)


def _gru_cell_backward(g: torch.Tensor, workspace: torch.Tensor, has_bias: bool) -> tuple[torch.Tensor, ...]:
    r, z, n, h, nh = workspace.chunk(5, 1)
    dn, dz = g * (1 - z) * (1 - n * n), g * (h - n) * z * (1 - z)
    dr = dn * nh * r * (1 - r)
    inputs, hidden = torch.cat([dr, dz, dn], 1), torch.cat([dr, dz, dn * r], 1)
    return inputs, hidden, g * z, inputs.sum(0), hidden.sum(0)


FUSED = {"_thnn_fused_gru_cell": _gru_cell, "_thnn_fused_gru_cell_backward": _gru_cell_backward}


class Event:
    """A place in the device's queue: the host knows that it is past once it has waited for anything that came later."""

    def record(self) -> None:
        """Here."""
        self._waits_before = Waits.made

    def query(self) -> bool:
        """Whether it is past."""
        return Waits.made > self._waits_before

    def synchronize(self) -> None:
        """Wait until it is."""
        if not self.query():
            Waits.add("event")


class PretendedAccelerator(Accelerator):
    """One device, for Lightning."""

    def setup_device(self, device: torch.device) -> None:
        """Nothing to do."""

    def teardown(self) -> None:
        """Nothing to do."""

    def get_device_stats(self, device: Any) -> dict[str, Any]:
        return {}

    @staticmethod
    def parse_devices(devices: Any) -> Any:
        return 1

    @staticmethod
    def get_parallel_devices(devices: Any) -> list[torch.device]:
        return [torch.device(DEVICE)]

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def name() -> str:
        return NAME


class PretendedStrategy(SingleDeviceStrategy):
    """All of a training on the device."""

    def __init__(self, accelerator: Any = None, **options: Any) -> None:
        super().__init__(DEVICE, accelerator, **{k: v for k, v in options.items() if k.endswith(("_io", "_plugin"))})


def why_not() -> str | None:
    """What this PyTorch lacks for it; None: nothing."""
    try:
        from torch.utils.backend_registration import _setup_privateuseone_for_python_backend  # noqa: F401
    except ImportError:
        return f"PyTorch {torch.__version__} has no backends in Python"
    return None


_libraries: list[Any] = []


def register() -> None:
    """Make the device known, once in a process."""
    if _libraries:
        return
    from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

    class Backend(_DummyBackendModule):
        """What ``torch.gpux`` has."""

        def get_rng_state(self, device: Any = NAME) -> torch.Tensor:
            return torch.zeros(16, dtype=torch.uint8)

        def set_rng_state(self, state: torch.Tensor, device: Any = NAME) -> None:
            """Random numbers come from the CPU's generator."""

        def get_amp_supported_dtype(self) -> list[torch.dtype]:
            return [torch.bfloat16, torch.float16]

        def synchronize(self, *_: Any) -> None:
            Waits.add("synchronize")

        def manual_seed(self, seed: int) -> None:
            """See `set_rng_state`."""

        manual_seed_all = manual_seed

        def set_device(self, device: Any) -> None:
            """There is one."""

        empty_cache = _lazy_init = lambda self: None

    backend = Backend()
    backend.Event = Event  # type: ignore[attr-defined]
    _setup_privateuseone_for_python_backend(NAME, backend_module=backend)
    _register_operations()
    AcceleratorRegistry.register(NAME, PretendedAccelerator)
    StrategyRegistry.register(NAME, PretendedStrategy)


def _register_operations() -> None:
    fallback = torch.library.Library("_", "IMPL")
    fallback.fallback(lambda op, *args, **kwargs: dispatch(op, args, kwargs), "PrivateUse1")
    aten = torch.library.Library("aten", "IMPL")

    def made_by(name: str) -> Any:
        base, _, overload = name.partition(".")
        op = getattr(getattr(torch.ops.aten, base), overload or "default")

        def make(*args: Any, device: Any = None, pin_memory: Any = None, layout: Any = None, **options: Any) -> Any:
            return PretendedTensor(op(*args, device="cpu", **options))

        return make

    made = "empty.memory_format", "empty_strided", "arange", "arange.start", "arange.start_step", "eye", "eye.m"
    for name in (*made, "linspace", "logspace", "tril_indices", "triu_indices"):
        aten.impl(name, made_by(name), "PrivateUse1")

    def to_copy(x: torch.Tensor, **options: Any) -> Any:
        given = {key: value for key, value in options.items() if value is not None}
        return dispatch(torch.ops.aten._to_copy.default, (x,), given)

    aten.impl("_to_copy", to_copy, "PrivateUse1")
    _libraries.extend([fallback, aten])


def pretend_pinning(patch: Any) -> None:
    """Pinned memory is memory with a mark, there being no driver to pin it; generators of the device are the CPU's.

    Args:
        patch: pytest's ``monkeypatch``, which takes it back.
    """

    def pin_memory(self: torch.Tensor, *args: Any) -> torch.Tensor:
        pinned = self.clone()
        pinned._pretended_pinned = True  # type: ignore[attr-defined]
        return pinned

    patch.setattr(torch.Tensor, "pin_memory", pin_memory)
    patch.setattr(torch.Tensor, "is_pinned", lambda self, *args: getattr(self, "_pretended_pinned", False))
    patch.setattr("deqzoo.nn.flow.Generator", lambda device: torch.Generator())
