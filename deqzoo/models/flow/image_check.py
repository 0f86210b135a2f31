"""What simpler densities reach on the images of a flow, with its own map of pixels to real numbers."""

import copy
import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from deqzoo.models.common.kind import Trained
from deqzoo.models.flow.pixels import Gaussianization, Logit, dequantize

COMPONENTS = (5, 10, 20)  # of the mixtures that are tried; validation images choose
VARIANCES = (1e-3, 0.03, 0.1, 0.3)  # added to their covariances: those of few images in many dimensions need it
PASSES = 3  # over the training images, each with noise of its own, on which the baselines are fitted
FEW = 10_000  # training images; above, one pass is enough
FITTED = 5_000  # images at most, of these, to which mixtures are fitted: in hundreds of dimensions it takes minutes
TESTED = 2_000  # test images at most
LOGIT = Logit(0.01)  # the baselines' second map of pixels, where the flow's is a Gaussianization
LARGE = 100  # values per image: above, mixtures of full covariance are left out


def baseline_check(trained: Trained) -> dict[str, Any]:
    """Bits/dim on the test images, the flow's and those of scikit-learn's normal densities and mixtures.

    The baselines see the pixels as the flow's ODE does; where that is by a `Gaussianization`, as logits, too.

    Returns:
        ``flow``, ``flow_error``: mean over the test images, and its standard error. ``n``: test images, 2,000 at most.
        ``baselines``: name -> ``bits_per_dim``, ``components``, ``covariance``, and ``gain``, by how many the flow has
            fewer on the same images, with its standard error ``gain_error``; the mixture is that of the components,
            the covariance (diagonal or full) and the variance added to it that validation images like best.
    """
    data = trained.data
    network: Any = trained.network
    parts = {name: _dequantised(data, network, name) for name in ("train", "val", "test")}
    parts["test"] = parts["test"][:TESTED]
    own = _bits_of(trained, parts["test"])
    baselines = _baselines(parts, network.pixels, network.levels, own)
    if isinstance(network.pixels, Gaussianization):
        of_logits = _baselines(parts, LOGIT, network.levels, own)
        baselines |= {f"{name} of logits": found for name, found in of_logits.items()}
    return {
        "flow": own.mean().item(),
        "flow_error": _error(own),
        "n": len(own),
        "baselines": baselines,
    }


def _baselines(parts: Mapping[str, Tensor], pixels: Any, levels: int, own: Tensor) -> dict[str, dict[str, Any]]:
    """The baselines of images in [0, 1], with one map of pixels to real numbers, beside the flow's ``own`` bits."""
    from sklearn.mixture import GaussianMixture

    values = {name: _values(x, pixels) for name, x in parts.items()}

    def fit(components: int, covariance: str, variance: float = 1e-3) -> Any:
        mixture = GaussianMixture(components, covariance_type=covariance, reg_covar=variance, random_state=0)
        images = values["train"][0]
        return mixture.fit(images if components == 1 else images[:FITTED])

    def bits(mixture: Any, part: str) -> Tensor:
        y, slope = values[part]
        return math.log2(levels) - torch.from_numpy(mixture.score_samples(y) + slope) / (math.log(2) * y.shape[1])

    def row(mixture: Any) -> dict[str, Any]:
        found = bits(mixture, "test")
        return {
            "bits_per_dim": found.mean().item(),
            "gain": (found - own).mean().item(),
            "gain_error": _error(found - own),
            "components": mixture.n_components,
            "covariance": mixture.covariance_type,
        }

    covariances = ("diag", "full") if values["train"][0].shape[1] <= LARGE else ("diag",)
    tried = {"diagonal Gaussian": fit(1, "diag"), "Gaussian of full covariance": fit(1, "full")}
    options = itertools.product(COMPONENTS, covariances, VARIANCES)
    tried["Gaussian mixture"] = min((fit(*each) for each in options), key=lambda mixture: bits(mixture, "val").mean())
    return {name: row(mixture) for name, mixture in tried.items()}


def check_rows(check: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What the model card says of a `baseline_check`: check, measured, required."""
    own = f"{check['flow']:.4f} ± {check['flow_error']:.4f} bits/dim"
    rows = [(f"this entry, {check['n']:,} test images", own, "less than those below")]
    for name, found in check["baselines"].items():
        many = f" ({found['components']} of {found['covariance']} covariance)" if found["components"] > 1 else ""
        gain = f"the entry's are {found['gain']:.4f} ± {found['gain_error']:.4f} fewer on the same images"
        rows.append((f"{name}{many}", f"{found['bits_per_dim']:.4f} bits/dim; {gain}", ""))
    return rows


def _error(values: Tensor) -> float:
    """Standard error of the mean."""
    return (values.std() / len(values) ** 0.5).item()


def _dequantised(data: Any, network: Any, part: str) -> Tensor:
    """Images of a part in order, dequantised; those of the training part with several draws where they are few."""
    images = data.images[data.parts[part]].cpu().float() / (network.levels - 1)
    random = Generator().manual_seed(0)
    passes = PASSES if part == "train" and len(images) <= FEW else 1
    return torch.cat([dequantize(images, network.levels, random) for _ in range(passes)])


def _values(x: Tensor, pixels: Any) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (N, D) of images as real numbers, and the log determinants of their map (N,)."""
    y, slope = copy.deepcopy(pixels).cpu().double()(x.double())
    return y.flatten(1).numpy(), slope.numpy()


@torch.no_grad()
def _bits_of(trained: Trained, x: Tensor) -> Tensor:
    network: Any = trained.network
    size = trained.data.options.eval_batch_size
    return torch.cat([network.bits_per_dim(part.to(trained.device)).double().cpu() for part in x.split(size)])
