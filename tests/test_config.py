"""The configuration: what a recipe and a command line may say, and what they are told when it is wrong."""

import re
import subprocess
import sys

import pytest
import torch
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from deqzoo import config
from deqzoo.config import Mode, RunConfig
from deqzoo.errors import ConfigError
from deqzoo.paths import head
from deqzoo.training import Run
from tests.running import ROOT, composed


def mistake(*overrides: str) -> str:
    with pytest.raises((HydraException, OmegaConfBaseException)) as caught:
        composed(*overrides)
    return config.explain(caught.value)


def test_plain_command_is_the_default_entry():
    composed_config = composed()
    assert composed_config.entry == "deq_digits"
    assert composed_config.data.name == "digits"
    assert composed_config.mode is Mode.fit
    assert set(composed_config) == set(RunConfig.__dataclass_fields__)


@pytest.mark.parametrize("entry", config.names("models"))
def test_every_recipe_composes_and_chooses_its_data(entry):
    recipe = composed(f"model={entry}")
    assert recipe.entry == entry
    assert recipe.trainer.max_epochs > 0
    assert recipe.data.name in config.names("data")


COMMANDS = {name: head(name, "Better hardware") for name in config.names("models")}


@pytest.mark.parametrize("entry", [name for name, text in COMMANDS.items() if text])
def test_command_for_better_hardware_builds_a_network_that_learns(entry, tmp_path):
    found = re.search(r"`python train.py (model=.*?)`", COMMANDS[entry])
    words = [word for word in found[1].split() if word not in ("data.root=DIR", "ckpt=RUN")]
    assert words[0] == f"model={entry}"
    better = composed(*words)
    assert better.trainer.max_epochs >= composed(f"model={entry}").trainer.max_epochs
    run = Run(better, tmp_path)
    output = run.module.network.train()(**run.kind.example(run.data.info))
    output.float().square().mean().backward()
    parameters = list(run.module.network.parameters())
    assert all(torch.isfinite(parameter.grad).all() for parameter in parameters if parameter.requires_grad)
    if size := re.search(r"\(([\d.]+)M parameters", COMMANDS[entry]):
        assert sum(parameter.numel() for parameter in parameters) / 1e6 == pytest.approx(float(size[1]), abs=0.05)


def test_recipe_defaults_give_way_to_the_command_line():
    changed = composed("model=deq_cifar", "data=mnist", "trainer.max_epochs=3", "model.solver=broyden")
    assert changed.data.name == "mnist"
    assert changed.trainer.max_epochs == 3
    assert changed.model.solver == "broyden"


def test_options_of_a_solver_are_open_to_its_own():
    assert composed("model.solver_options.depth=3").model.solver_options.depth == 3


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("trainer.max_epoch=3", "'trainer.max_epoch'; valid are trainer.accelerator,"),
        ("model.solver_option.tol=1", "'model.solver_option'; valid are model.adjoint,"),
        ("data.augment.crops=1", "'data.augment.crops'; valid are data.augment.alternating_flip, data.augment.crop,"),
        ("lr=1", "'lr'; valid are ckpt, data, entry,"),
        ("model.optimizer=adam", "model.optimizer: Invalid value 'adam', expected one of [adamw, sgd, muon]."),
        ("mode=tset", "mode: Invalid value 'tset', expected one of [fit, test]."),
        ("trainer.max_epochs=few", "trainer.max_epochs: Value 'few'"),
        ("model=deq_cfar", "deq_digits"),
        ("data=cifar11", "cifar10"),
    ],
)
def test_typo_is_an_error_that_lists_what_is_valid(override, told):
    assert told in mistake(override)


def test_wrong_recipe_names_file_and_valid_keys():
    with pytest.raises(ConfigError, match=r"models/x.yaml: there is no setting 'width'; valid are .*widths"):
        config.model_config({"kind": "deq_classifier", "width": 3}, "models/x.yaml")
    with pytest.raises(ConfigError, match=r"kind is 'deq'; valid are .*contractive_classifier, conv_classifier"):
        config.model_config({"kind": "deq"}, "models/x.yaml")


def test_resume_last_without_a_run_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="no unfinished run"):
        config._run_folder("deq_digits", "last")
    unfinished = tmp_path / "outputs" / "deq_digits" / "2026-01-02_00-00-00"
    finished = tmp_path / "outputs" / "deq_digits" / "2026-01-03_00-00-00"
    for folder in (unfinished, finished):
        folder.mkdir(parents=True)
        (folder / "last.ckpt").touch()
    (finished / "metrics.json").touch()
    assert config._run_folder("deq_digits", "last") == str(unfinished.relative_to(tmp_path))
    assert config._run_folder("deq_digits", str(finished / "last.ckpt")) == str(finished)


def test_no_torch_before_there_is_something_to_run():
    script = "import sys, deqzoo.launch, deqzoo.config as c; c.register(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


def test_only_the_recipes_that_are_chosen_are_read():
    script = "import deqzoo.config as c; c.register(['model=deq_cifar,mdeq_cifar_small', 'seed=1']); print(c._stored)"
    printed = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True)
    read = re.findall(r"\('model', '(\w+)'\)", printed.stdout)
    assert read == ["deq_cifar", "mdeq_cifar_small"]
    assert config._chosen(["seed=1"]) == {"deq_digits"}
    assert config._chosen(["model=glob(deq*)"]) is None  # for Hydra to tell: all are read
    assert "deq_digits" in mistake("model=deq_digit")  # the names of the others are known


def test_a_setting_that_was_renamed_is_taken_with_a_warning():
    words = ["model.gradient=phantom", "~model.gradient_options.linear_solver", "++model.gradient_options.steps=3"]
    with pytest.warns(FutureWarning, match=r"model\.gradient is called model\.adjoint now"):
        found = config.current_words(["model=deq_digits", *words])
    assert found == [
        "model=deq_digits",
        "model.adjoint=phantom",
        "~model.adjoint_options.linear_solver",
        "++model.adjoint_options.steps=3",
    ]
    with pytest.warns(FutureWarning, match=r"model\.gradient_options is called model\.adjoint_options now"):
        settings = config.model_config(
            {"kind": "deq_classifier", "gradient": "phantom", "gradient_options": {"steps": 3}}, "a recipe of before"
        )
    assert (settings.adjoint, settings.adjoint_options) == ("phantom", {"steps": 3})
    with pytest.warns(FutureWarning, match=r"model\.mirror is called model\.flip_equivariant now"):
        assert config.model_config({"kind": "contractive_classifier", "mirror": True}, "a recipe").flip_equivariant
    with pytest.warns(FutureWarning, match=r"model\.(shares is called .*observed_fr|least_shown is called .*min_obs)"):
        settings = config.model_config({"kind": "latent_ode", "shares": [0.5], "least_shown": 0.1}, "a recipe")
    assert (settings.observed_fractions, settings.min_observed_fraction) == ([0.5], 0.1)
