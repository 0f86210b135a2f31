"""Every private API of torch that this package uses, in one file: why it is needed, and what would replace it.

No other file uses one, and a test says so. When a release of torch breaks one, this is the file to mend: each function
here has a name and a meaning of its own.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch
from torch._C._autograd import _get_sequence_nr, _top_saved_tensors_default_hooks
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack, temporarily_pop_interpreter_stack
from torch.autograd import forward_ad
from torch.autograd.graph import _engine_run_backward
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils import _foreach_utils, _pytree

# Pytrees. Why: states and arguments are nested structures of tensors, flattened as torch.func and torch.compile do.
# Instead: the package optree, which is another dependency with other rules for some containers.
torch_pytree = _pytree
tree_leaves, tree_map = _pytree.tree_leaves, _pytree.tree_map


# ---- torch.func. Why: a solver's loop ends when no system of any vmapped batch is active, a black box runs below all
# transforms, and each level has its own version of a tensor that a condition captures; torch.func tells nobody about
# its levels. Instead: refuse to run under transforms, as most libraries do.


def transform_level() -> int | None:
    """The number of `torch.func` transforms that are active; None outside."""
    level: int | None = _functorch.maybe_current_level()
    return level


def level_of(tensor: Tensor) -> int:
    """The number of the transform that a wrapped tensor belongs to; -1 of one that is not wrapped."""
    return int(_functorch.maybe_get_level(tensor))


def is_wrapped(tensor: Tensor) -> bool:
    """True if a `torch.func` transform has its own version of the tensor."""
    return bool(_functorch.is_functorch_wrapped_tensor(tensor))


def unwrap_once(tensor: Tensor) -> Tensor:
    """A wrapped tensor one level further down."""
    return _functorch.get_unwrapped(tensor)


def is_wrapped_by_ended_level(tensor: Tensor) -> bool:
    """True if the transform that wrapped the tensor is over."""
    return bool(_functorch.is_dead_tensor_wrapper(tensor))  # type: ignore[attr-defined]


def is_batched(tensor: Tensor) -> bool:
    """True if the outermost wrapper of the tensor is that of a `vmap`."""
    return bool(_functorch.is_batchedtensor(tensor))


def is_grads_batched(tensor: Tensor) -> bool:
    """True if the tensor is batched by `torch.autograd.grad(..., is_grads_batched=True)`, an older `vmap`."""
    return bool(_functorch.is_legacy_batchedtensor(tensor))


def batch_axis(tensor: Tensor) -> int:
    """The axis that `vmap` hides of a batched tensor."""
    return int(_functorch.maybe_get_bdim(tensor))


def with_batch_axis(tensor: Tensor, axis: int, level: int) -> Tensor:
    """A tensor with one axis hidden, as the `vmap` of this level does it."""
    return _functorch._add_batch_dim(tensor, axis, level)


def below_innermost_transform() -> contextlib.AbstractContextManager[Any]:
    """Inside, operations do not see the innermost transform."""
    return temporarily_pop_interpreter_stack()


def below_all_transforms() -> contextlib.AbstractContextManager[Any]:
    """Inside, operations see no transform: bookkeeping on the host, and what a black box computes."""
    return temporarily_clear_interpreter_stack()


# ---- Forward mode. Why: a solver must neither carry tangents through its iterations, nor drop those of an outer level
# where torch itself has turned forward mode off (in the `jvp` of an autograd function).
# Instead: `torch.func.jvp` alone, whose levels are known from above.


def forward_level() -> int:
    """The number of the innermost level of `torch.autograd.forward_ad`; -1 outside."""
    return forward_ad._current_level


def forward_mode(enabled: bool) -> contextlib.AbstractContextManager[Any]:
    """Inside, operations carry tangents or do not."""
    return forward_ad._set_fwd_grad_enabled(enabled)


# ---- The tape. Why: the tape of a condition tells what it has read, without a second evaluation; the numbers of its
# nodes tell what was there before. Instead: evaluate each condition twice, and watch the first.

AccumulateGrad: Any = torch._C._functions.AccumulateGrad  # type: ignore[attr-defined]  # the nodes at which a tape ends


def next_node_number() -> int:
    """The number that the next node of the tape gets."""
    return int(_get_sequence_nr())


def node_number(node: Any) -> int:
    """The number of a node of the tape."""
    return int(node._sequence_nr())


def saved_tensors_are_hooked() -> bool:
    """Whether hooks on saved tensors are active, as under checkpointing: then a tape may be read once only.

    Instead: evaluate the condition once more in each backward.
    """
    return saved_tensor_hooks() is not None


def saved_tensor_hooks() -> Any:
    """The innermost hooks on saved tensors, None: there are none. Why: checkpointing tells of itself by them alone.

    Instead: set the generators back before each evaluation of a layer's f that draws.
    """
    return _top_saved_tensors_default_hooks(False)


def version_of(tensor: Tensor) -> int:
    """A count of the in-place operations on a tensor. Why: f must not change its argument, which the solver holds.

    Instead: hand a copy to f in each call.
    """
    return tensor._version


def vector_jacobian_products(
    values: Sequence[Tensor], weights: Sequence[Tensor], inputs: Sequence[Tensor], create_graph: bool
) -> Sequence[Tensor | None]:
    """`torch.autograd.grad(values, inputs, weights, retain_graph=True, allow_unused=True)`, which is what replaces it.

    Without its checks of the arguments: they take a third of the time of a small product.
    """
    return _engine_run_backward(values, weights, True, create_graph, inputs, True, accumulate_grad=False)


def add_in_place(sums: Sequence[Tensor], terms: Sequence[Tensor]) -> None:
    """sum += term for each pair, in one launch on CUDA. Instead: a loop of `add_`, a launch each."""
    torch._foreach_add_(list(sums), list(terms))


def lerp_in_place(averages: Sequence[Tensor], values: Sequence[Tensor], weight: float | Tensor) -> None:
    """average += weight (value - average) for each pair, in few launches on CUDA. Instead: a loop of `lerp_`."""
    if not isinstance(weight, Tensor):
        return torch._foreach_lerp_(list(averages), list(values), weight)
    changes = torch._foreach_sub(list(values), list(averages))
    torch._foreach_mul_(changes, weight)
    return torch._foreach_add_(list(averages), changes)


def fused_devices() -> list[str]:
    """Where torch's optimisers have a fused step. Instead: to try one."""
    return _foreach_utils._get_fused_kernels_supported_devices()


def scales_no_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Tell that no loss is scaled: Lightning clips no gradients of a fused optimiser, as it might have to scale them.

    Instead: to clip them ourselves.
    """
    optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]


# ---- Modules. Why: which layers couple samples or draw at random is told by no public face, and where a parameter
# stands is looked up in every call. Instead: lists of torch's layers by name, and a walk through the module's tree.

BatchNorm: Any = torch.nn.modules.batchnorm._BatchNorm
Dropout: Any = torch.nn.modules.dropout._DropoutNd


def own_parameters(module: torch.nn.Module) -> dict[str, torch.nn.Parameter | None]:
    """Where a module holds the parameters that are its own."""
    return module._parameters


# ---- Modes. Why: an implicit function inside of another one must be seen by the modes that watch the outer one, and
# these must find each other. Instead: a list of our own, which does not know of modes that others put in between.


def function_modes() -> list[TorchFunctionMode]:
    """The `TorchFunctionMode`s that are active, the outermost first."""
    return _get_current_function_mode_stack()


# ---- The compiler. Why: `torch.compiler` is public, but to import or to ask it loads all of the compiler, seconds for
# those who do not compile. Instead: `torch.compiler.disable` and `torch.compiler.set_stance` without asking first.


def not_compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, marked as one that the compiler leaves alone, should it ever be loaded."""
    function._torchdynamo_disable = True  # type: ignore[attr-defined]
    return function


def compiler_is_loaded() -> bool:
    """Whether something has imported the compiler."""
    return "torch._dynamo" in sys.modules


def something_is_compiled() -> bool:
    """Whether `torch.compile` was called: every optimizer loads the compiler, and to set its stance takes a while."""
    compiler = sys.modules.get("torch._dynamo.eval_frame")
    return compiler is not None and any(getattr(compiler, "cached_backends", {None: True}).values())


def is_traced() -> bool:
    """Whether `make_fx`, `torch.export` or `torch.func.linearize` is tracing. Instead: fail with an error of theirs."""
    tracing = sys.modules.get("torch.fx.experimental.proxy_tensor")
    return tracing is not None and tracing.get_proxy_mode() is not None


# ---- Conversion of modules. Why: `half()` of a layer that has no half precision is refused before a parameter is
# rounded, and nn.Module has no hook for it. Instead: refuse at the next call, when the digits are lost.


class Convertible(torch.nn.Module):
    """A module that is told before its parameters are converted, by `half`, `to` and the like."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        self.before_conversion(fn(torch.empty(0)).dtype)
        return super()._apply(fn, recurse)

    def before_conversion(self, dtype: torch.dtype) -> None:
        """Called with the dtype that floating-point parameters will have; may raise."""
