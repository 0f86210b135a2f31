"""Model cards: ``README.md`` of a checkpoint folder, made from its ``config.json`` and ``metrics.json``."""

from collections.abc import Mapping
from typing import Any


def model_card(config: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """The card in Markdown. What ``metrics`` does not hold is left out."""
    name, model, test = config["name"], config["model"], metrics.get("test", {})
    lines = [f"# {name}", ""]
    if test:
        lines += [f"**{accuracy(metrics)}** on the {test['n']:,} test images of `{metrics['data']}`.", ""]
    lines += [
        "```python",
        "import deqzoo",
        "",
        f'model = deqzoo.load("{name}")  # raw images in [0, 1] -> logits',
    ]
    lines += ["```", "", "| | |", "| --- | --- |"]
    lines += [f"| {label} | {value} |" for label, value in _facts(config, metrics).items()]
    if check := metrics.get("deq_check"):
        lines += [
            "",
            "## Does the equilibrium do the work?",
            "",
            "| check | measured | asked for |",
            "| --- | --- | --- |",
        ]
        lines += [f"| {label} | {measured} | {asked} |" for label, measured, asked in _check_rows(check)]
    lines += [
        "",
        f"Kind `{model['kind']}`, classes: {', '.join(config['data']['classes'])}. Trained and tested on the "
        "named data only: an example of its method, not made for decisions about people.",
        "",
        "This file is generated (`python -m deqzoo.zoo tables`).",
    ]
    return "\n".join(lines) + "\n"


def accuracy(metrics: Mapping[str, Any]) -> str:
    """Test accuracy in per cent, with mean and standard deviation over seeds where they were measured.

    >>> accuracy({"test": {"accuracy": 0.9861}})
    '98.61 %'
    """
    text = f"{100 * metrics['test']['accuracy']:.2f} %"
    if seeds := metrics.get("seeds"):
        spread = f"{100 * seeds['mean']:.2f} ± {100 * seeds['standard_deviation']:.2f}"
        text += f" (seed {metrics['seed']}; {spread} over {len(seeds['seeds'])} seeds)"
    return text


def duration(seconds: float) -> str:
    """Seconds for people.

    >>> duration(42.3), duration(3900)
    ('42 s', '65 min')
    """
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _facts(config: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, str]:
    model, test = config["model"], metrics.get("test", {})
    facts = {
        "forward solver": f"{model['solver']} {_options(model['solver_options'])}",
        "gradient": f"{model['gradient']} {_options(model['gradient_options'])}",
    }
    if "parameters" in metrics:
        facts["parameters"] = f"{metrics['parameters']:,}"
    if test:
        facts["test loss"] = f"{test['loss']:.4f}"
        facts["NFE (largest over the layers)"] = f"{test['nfe']:.1f}"
        facts["median residual"] = f"{test['residual']:.1e}"
        facts["samples not converged"] = f"{100 * test['unconverged']:.1f} %"
    if "command" in metrics:
        facts["command"] = f"`{metrics['command']}`"
        facts["seed"] = str(metrics["seed"])
        facts["training"] = f"{duration(metrics['time'])} on {metrics['hardware']}"
        facts["versions"] = ", ".join(f"{name} {number}" for name, number in metrics["versions"].items())
    return {label: value.strip() for label, value in facts.items()}


def _options(options: Mapping[str, Any]) -> str:
    return f"({', '.join(f'{key}={value}' for key, value in options.items())})" if options else ""


def _check_rows(check: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    n = f"{check['n']:,} test images"
    return [
        ("parameters in equilibrium cells", f"{100 * check['parameter_share']:.1f} %", ">= 80 %"),
        ("FLOPs in equilibrium cells", f"{100 * check['flop_share']:.1f} %", ">= 80 %"),
        ("median test residual", f"{check['median_residual']:.1e}", "<= 1e-2"),
        (
            f"accuracy at tol 1e-4, {n}",
            f"{100 * check['accuracy_tight']:.2f} %",
            "within .2 points (or one image) of the next",
        ),
        (f"accuracy at 12 NFE, {n}", f"{100 * check['accuracy_12_nfe']:.2f} %", ""),
        (
            f"ablation: these weights, each cell applied once, {n}",
            f"{100 * check['accuracy_one_step']:.2f} %",
            "the equilibrium matters",
        ),
        ("counts as a DEQ", "yes" if check["passed"] else "**no**", ""),
    ]
