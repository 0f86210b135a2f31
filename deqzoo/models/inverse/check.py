"""Is a learned equilibrium better than filters, as good as unrolling, and no worse for more iterations?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from deqzoo.implicit import Picard
from deqzoo.models.common.kind import Baseline, Trained
from deqzoo.models.inverse.blur import TEST_SEED, GaussianBlur, psnr
from deqzoo.nn import use_solver

CONSTANTS = tuple(10 ** (exponent / 10) for exponent in range(-50, 1))  # noise-to-signal ratios that are tried
FOR_FILTERS = 1000  # validation images by which the ratio is chosen
FOR_CURVES = 500  # test images over NFE
RADIUS_OF = 8  # test images of which the spectral radius is found
ABOVE_WIENER, BELOW_UNROLLED, FALL = 1.0, 0.1, 0.05  # dB: at least, at most, at most
Images = Sequence[Tensor]


@torch.no_grad()
def deblur_check(trained: Trained) -> dict[str, Any]:
    """Measure a `deqzoo.models.DeblurNetwork` on the test images.

    Returns:
        ``psnr``: mean PSNR in dB of ``blurred`` images, of the ``wiener`` filter with the one ``noise_to_signal`` ratio
            that is best on validation images, of the ``spectral_wiener`` filter with the mean power spectrum of these
            (the best linear filter that treats all pixels alike), and of the network, ``restored``.
        ``steps``: most solver steps in training. ``over_nfe``: mean PSNR of the first `FOR_CURVES` images for budgets
            of half, 1, 2 and 5 times as many, with the tolerance 0.
        ``spectral_radius``: the largest of df/dz at the equilibria of `RADIUS_OF` images: below 1 they are stable.
        ``n``: test images.
        ``baseline``: of the shipped baseline, its name, ``psnr`` on the same images, parameters, steps and time.
    """
    network: Any = trained.network
    test = [batch[0] for batch in trained.test_batches()]
    blur: GaussianBlur = network.blur
    ratio, spectrum = fitted_filters(blur, validation_images(trained))
    most = trained.settings.train_max_steps or network.deq.solver.max_steps
    result: dict[str, Any] = {
        "n": sum(len(images) for images in test),
        "psnr": {
            "blurred": mean_psnr(lambda y: y, blur, test),
            "wiener": mean_psnr(lambda y: blur.wiener(y, ratio), blur, test),
            "spectral_wiener": mean_psnr(lambda y: blur.wiener(y, spectrum), blur, test),
            "restored": mean_psnr(network, blur, test),
        },
        "noise_to_signal": ratio,
        "steps": most,
        "over_nfe": {str(k): v for k, v in over_steps(network, test, [most // 2, most, 2 * most, 5 * most]).items()},
        "spectral_radius": _radius(network, test[0][:RADIUS_OF]),
    }
    if baseline := trained.find_baseline(trained.settings.baseline):
        result["baseline"] = _of_baseline(baseline, blur, test, trained.device)
    return result


def mean_psnr(restore: Any, blur: GaussianBlur, batches: Images) -> float:
    """The mean over all images of what ``restore`` makes of the measured ones."""
    found = [psnr(restore(blur.measured(images, TEST_SEED)), images) for images in batches]
    return torch.cat(found).double().mean().item()


def fitted_filters(blur: GaussianBlur, images: Tensor) -> tuple[float, Tensor]:
    """Of Wiener filters the one ratio that restores the images best, and the ratio of each frequency by their power."""
    height, width = images.shape[-2:]
    best = max(CONSTANTS, key=lambda c: mean_psnr(lambda y: blur.wiener(y, c), blur, [images]))
    power = torch.fft.rfft2(images).abs().square().mean((0, 1)) / (height * width)
    return best, blur.noise**2 / power


def validation_images(trained: Trained) -> Tensor:
    """The first images of the validation part, on the device."""
    found: list[Tensor] = []
    for images, _ in trained.data.val_dataloader():
        found.append(images.to(trained.device))
        if sum(map(len, found)) >= FOR_FILTERS:
            break
    return torch.cat(found)[:FOR_FILTERS]


def over_steps(network: Any, batches: Images, steps: Sequence[int], count: int = FOR_CURVES) -> dict[int, float]:
    """Mean PSNR of the first ``count`` images after each number of steps, all from one start; tolerance 0.

    Of an unrolled network the iteration goes on beyond its steps.
    """
    images = torch.cat([*batches])[:count]
    found = {}
    for most in steps:
        with use_solver(network, _budget(network.deq.solver, most)):
            found[most] = mean_psnr(network, network.blur, images.split(250))
    return found


def _budget(solver: Any, steps: int) -> Any:
    if isinstance(solver, Picard):  # the last iterate, as an unrolled network has it
        return dataclasses.replace(solver, max_steps=steps, stop="never")
    return dataclasses.replace(solver, max_steps=steps, tol=0.0, patience=steps + 1)


def _radius(network: Any, images: Tensor) -> float:
    x = network.deq.cell.inject(network.blur.measured(images, TEST_SEED))
    return float(network.deq.spectral_radius(x, network.deq(x)).max())


def _of_baseline(baseline: Baseline, blur: GaussianBlur, test: Images, device: torch.device) -> dict[str, Any]:
    other: Any = baseline.load(device)
    return {"entry": baseline.entry, "psnr": mean_psnr(other, blur, test), **baseline.costs()}


def check_rows(check: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What the model card says of a `deblur_check`: check, measured, required."""
    found, baseline = check["psnr"], check.get("baseline")
    ours = found["restored"]
    best = max(found["wiener"], found["spectral_wiener"])
    ratio = f"noise-to-signal ratio {check['noise_to_signal']:.1e}, chosen on validation images"
    rows = [
        ("PSNR of the blurred images", f"{found['blurred']:.2f} dB", ""),
        (f"the best Wiener filter with a constant ({ratio})", f"{found['wiener']:.2f} dB", ""),
        ("the Wiener filter with the images' power spectrum", f"{found['spectral_wiener']:.2f} dB", ""),
        (
            f"restored, {check['n']:,} images",
            f"{ours:.2f} dB, {ours - found['wiener']:+.2f} and {ours - best:+.2f} dB beside these",
            f"at least {ABOVE_WIENER:+g} dB",
        ),
    ]
    if baseline:
        cost = f"{baseline['parameters']:,} parameters, {baseline['steps']:,} steps, {baseline['time']:.0f} s"
        difference = f"{baseline['psnr']:.2f} dB, ours {ours - baseline['psnr']:+.2f} dB"
        rows.append((f"unrolled, `{baseline['entry']}` ({cost})", difference, f"at least -{BELOW_UNROLLED:g} dB"))
    curve = ", ".join(f"{value:.2f} dB at {count}" for count, value in check["over_nfe"].items())
    what = f"over steps, of the first {min(check['n'], FOR_CURVES):,} images; in training at most {check['steps']}"
    rows.append((what, curve, f"no fall over {FALL:g} dB beyond that" if baseline else ""))
    radius = f"{check['spectral_radius']:.2f}"
    rows.append((f"largest spectral radius of df/dz, at {RADIUS_OF} images", radius, ""))
    return rows


def check_text(check: Mapping[str, Any]) -> str:
    """What the numbers of the card mean."""
    text = (
        f"Tested on the first {check['n']:,} test images. PSNR is the mean over them, of pixels in [0, 1] that are not "
        "clamped. The blur is a circular "
        "convolution with a Gaussian, known to all methods; the noise is the same for all. The images are not those of "
        "the paper, and its numbers are not comparable. The data are fitted by their proximal step, not by the "
        "paper's gradient step. That the iteration contracts is not proved."
    )
    if check["spectral_radius"] >= 1:
        text += " Where the spectral radius is above 1, plain iteration leads away from the equilibrium."
    return text
