"""How a run uses the machine it is on, and what machine that is."""

import logging
import os
import platform
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deqzoo import __version__
from deqzoo.config import TrainerConfig
from deqzoo.nn import solver_layers


def uses_cuda(trainer: TrainerConfig) -> bool:
    """Whether Lightning will train on a GPU of NVIDIA's."""
    return trainer.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()


def precision(trainer: TrainerConfig) -> str | int:
    """Lightning's ``precision``; ``auto`` is bf16-mixed on devices with instructions for bf16, else 32-true."""
    if trainer.precision != "auto":
        return trainer.precision
    if uses_cuda(trainer):
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        wanted = "amx_bf16", "avx512_bf16"
        fast = trainer.accelerator in ("auto", "cpu") and any(capabilities.get(name) for name in wanted)
    return "bf16-mixed" if fast else "32-true"


def devices(trainer: TrainerConfig) -> Any:
    """Lightning's ``devices``; ``auto`` is one.

    As Lightning has it, ``auto`` would be all GPUs, and so multiply the batch by their number without a word.
    """
    return 1 if trainer.devices == "auto" else trainer.devices


def choose_tf32(allowed: bool) -> None:
    """Whether a GPU may round products of float32 to TF32's ten bits; PyTorch lets it in convolutions alone."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


def speed_up(network: nn.Module, model: Any, trainer: TrainerConfig) -> None:
    """Compile the solver layers, where the recipe's kind has such a setting; ``null`` means: on CUDA.

    Layers with a fixed number of steps are compiled whole, forward and backward, in training: a `DEQ` with ``stop:
    never`` and ``neumann``, or ``gmres`` with ``max_steps``; a `NeuralODE` with a ``step_size``. Of other layers, what
    the solver evaluates, and in training the steps: of a `DEQ` by blocks, of a `NeuralODE` one by one. In place: names
    in the state_dict stay.
    """
    chosen = getattr(model, "compile", False)
    if uses_cuda(trainer) if chosen is None else chosen:
        for layer in solver_layers(network):
            layer.compile_training()


def hardware(device: torch.device) -> str:
    """The device in words, as a metrics file has it.

    >>> "CPU" in hardware(torch.device("cpu"))
    True
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    name = model or platform.processor() or platform.machine()
    return f"CPU {name}, {torch.get_num_threads()} of {os.cpu_count()} cores"


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    return {
        "deqzoo": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "lightning": version("lightning"),
    }


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Within it, Lightning keeps its tips, its summary of devices and its advice to itself."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "lightning")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\.")
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
