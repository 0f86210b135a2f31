"""How to measure: CPU time in interleaved rounds, live bytes, bytes saved for backward, host reads."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import statistics
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class CountCalls:
    """`f`, with its calls counted in `calls`."""

    def __init__(self, f: Callable[..., Any]) -> None:
        self.f = f
        self.calls = 0

    def __call__(self, *args: Any) -> Any:
        """Call `f`."""
        self.calls += 1
        return self.f(*args)


class PeakBytes(TorchDispatchMode):
    """Inside the context, the bytes of tensor storage that are `alive`, and the most at once, in `peak`.

    Counted from what each operator returns, so tensors that existed before the context (the baseline) and an
    operator's own scratch space are left out, and nothing depends on the allocator or the operating system.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self.alive = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._known.update(_storages((args, kwargs)))  # first met as an argument: older than this context
        result = func(*args, **(kwargs or {}))
        for storage in _storages(result):
            if storage not in self._known:
                self._known.add(storage)
                self.alive += storage.nbytes()
                weakref.finalize(storage, self._free, storage.nbytes())
        self.peak = max(self.peak, self.alive)
        return result

    def _free(self, size: int) -> None:
        self.alive -= size


def _storages(tree: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


class HostReads(TorchFunctionMode):
    """Inside the context, how often Python asked for a tensor's values, in `count`: each is a stop on a GPU."""

    READS = frozenset(
        getattr(Tensor, name)
        for name in ("item", "tolist", "numpy", "__bool__", "__int__", "__float__", "__index__", "cpu", "nonzero")
    )

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in self.READS
        return func(*args, **(kwargs or {}))


class SavedBytes(torch.autograd.graph.saved_tensors_hooks):
    """Records what autograd keeps for the backward pass of the graphs built inside the context."""

    def __init__(self) -> None:
        self._storages: dict[StorageWeakRef, int] = {}
        super().__init__(self._pack, lambda tensor: tensor)

    def __enter__(self) -> SavedBytes:
        super().__enter__()
        return self

    def _pack(self, tensor: Tensor) -> Tensor:
        self._storages[StorageWeakRef(tensor.untyped_storage())] = tensor.untyped_storage().nbytes()
        return tensor.detach()  # the tensor itself would keep its own graph alive for ever

    @property
    def total(self) -> int:
        """Bytes kept right now, each storage once."""
        return sum(size for storage, size in self._storages.items() if not storage.expired())


def keep_freed_memory() -> None:
    """Tell the C allocator (glibc) to keep what is freed, so that no solver is timed by the system's page faults."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_threshold, 32 * 2**20)  # the most that glibc takes


def cpu_time(call: Callable[[], Any]) -> float:
    """Seconds of processor time of one call.

    With one thread this is the time on the clock of an idle machine, and other programs disturb it less.
    """
    start = time.process_time()
    call()
    return time.process_time() - start


def time_on(device: torch.device) -> Callable[[Callable[[], Any]], float]:
    """How a call is timed: `cpu_time`, or on a GPU the seconds until it has done the call's work."""

    def gpu_time(call: Callable[[], Any]) -> float:
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        call()
        torch.cuda.synchronize(device)
        return time.perf_counter() - start

    return gpu_time if device.type == "cuda" else cpu_time


def interleaved(
    calls: Mapping[Any, Callable[[], Any]], rounds: int, seconds: Callable[[Callable[[], Any]], float] | None = None
) -> dict[Any, list[float]]:
    """Seconds of each call in each round; a round runs each call once, so that a slow spell of the machine hits all.

    `seconds` times a call; None: as `time_on` does on the device where tensors are made by default.

    Every other round goes backwards through them, so that none always runs with the caches as the same other left them.
    """
    seconds = seconds or time_on(torch.get_default_device())
    times: dict[Any, list[float]] = {name: [] for name in calls}
    for number in range(rounds):
        for name in list(calls)[:: -1 if number % 2 else 1]:
            times[name].append(seconds(calls[name]))
    return times


def in_a_row(call: Callable[[], Any], count: int) -> Callable[[], None]:
    """`call`, `count` times: a short one as a loop makes it, not with others' code in the processor's caches."""

    def calls() -> None:
        for _ in range(count):
            call()

    return calls


def median_ratio(times: Iterable[float], over: Iterable[float]) -> float:
    """The median over the rounds of one time over the other, both of the same round."""
    return statistics.median(a / b for a, b in zip(times, over, strict=True))


def environment(packages: Iterable[str] = ()) -> dict[str, str]:
    """What the numbers depend on: versions, threads and the processor's kind."""
    found = {"python": platform.python_version(), "torch": torch.__version__, "threads": str(torch.get_num_threads())}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return found | {"processor": models[0] if models else platform.machine()}


def write_json(path: Path, content: Any) -> None:
    """Write the file whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(part, path)
