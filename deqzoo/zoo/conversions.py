"""What older checkpoint folders say, in the words of today: shipped checkpoints load forever.

A change of the settings or of the names of weights raises `FORMAT` by one and adds a function to `CONVERSIONS`, which
makes of a folder of the format before it one of the next; a folder of that format is kept in the tests.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

FORMAT = 3  # of the folders that are written

Config = Mapping[str, Any]  # what ``config.json`` holds
Weights = Mapping[str, Tensor]
Conversion = Callable[[Config, Weights], tuple[Config, Weights]]


def convert(config: Config, weights: Weights) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A checkpoint of any format up to `FORMAT`, as it is written today.

    >>> convert({"format": 1, "model": {"kind": "contractive_classifier", "mirror": True}}, {})
    ({'format': 3, 'model': {'kind': 'contractive_classifier', 'flip_equivariant': True}}, {})
    """
    for version in range(config["format"], FORMAT):
        config, weights = CONVERSIONS[version](config, weights)
    return {**config, "format": FORMAT}, dict(weights)


def _from_1(config: Config, weights: Weights) -> tuple[Config, Weights]:
    """The controller of the Jacobian penalty is gone, and `mirror` has the field's name."""
    model = {key: value for key, value in config["model"].items() if key != "unconverged_at_most"}
    if "mirror" in model:
        model["flip_equivariant"] = model.pop("mirror")
    return {**config, "model": model}, weights


def _from_2(config: Config, weights: Weights) -> tuple[Config, Weights]:
    """A fixed point's gradient is its adjoint; settings of cells and latent ODEs; defaults that changed are written."""
    names = {"gradient": "adjoint", "gradient_options": "adjoint_options"}
    model = {names.get(key, key): value for key, value in config["model"].items()}
    if model["kind"] == "deq_classifier":
        options = {name: model.pop(name) for name in ("expansion", "groups", "dropout", "weight_norm")}
        model["entry_groups"] = options["groups"]
        if model["cell"] == "plain":
            del options["expansion"]  # which had no meaning for it
        model["cell_options"] = options
    if model["kind"] == "latent_ode":
        model["min_observed_fraction"] = model.pop("least_shown")
        model["observed_fractions"] = model.pop("shares")
    explicit = model.get("layers", 0) > 0 or model.get("dynamics") == "gru"
    solver = None if explicit else model.get("solver")
    if solver in ("anderson", "broyden", "newton", "newton_krylov", "picard", "forward_backward", "peaceman_rachford"):
        model["solver_options"] = {"tol": None, "max_steps": 100} | model["solver_options"]
    elif solver in ("bosh3", "dopri5", "dopri8", "kvaerno3", "kvaerno5", "rodas5p", "tsit5"):
        model["solver_options"] = {"rtol": 1e-5, "atol": 1e-6} | model["solver_options"]
    return {**config, "model": model}, weights


CONVERSIONS: dict[int, Conversion] = {1: _from_1, 2: _from_2}  # from that format to the next
