"""Checkpoint folders: what is wrong with one is told in a sentence; one is written whole or not at all."""

import json
import pickle
import shutil
import warnings

import pytest
import safetensors.torch
import torch

import deqzoo
from deqzoo.implicit import NonConvergenceWarning
from deqzoo.models import ImageInfo, build_network
from deqzoo.models.equilibrium.config import DEQClassifierConfig
from deqzoo.zoo import CheckpointError, export, load
from deqzoo.zoo.folder import fingerprint, read_golden

INFO = ImageInfo(1, ("no", "yes"), (0.3,), (0.4,))
METRICS = {"entry": "tiny", "data": "digits", "seed": 0}


def network(**settings):
    torch.manual_seed(0)
    options = {"tol": 1e-3, "max_steps": 20}
    return build_network(DEQClassifierConfig(widths=[8], entry_groups=4, solver_options=options, **settings), INFO)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo") / "tiny"
    return export(network(adjoint="phantom"), folder, METRICS, inputs={"images": torch.rand(3, 1, 8, 8)})


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "tiny")


def rewrite_config(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def save_weights(folder, weights):
    weights = {name: value.contiguous() for name, value in weights.items()}
    safetensors.torch.save_file(weights, folder / "model.safetensors")
    rewrite_config(folder, lambda config: config.update(weights=fingerprint(folder / "model.safetensors")))


def test_loaded_model_is_the_exported_one(folder):
    model = load(folder)
    assert not model.training
    assert model.classes == ("no", "yes")
    inputs, logits = read_golden(folder)
    torch.testing.assert_close(model(**inputs), logits, rtol=1e-4, atol=1e-5)
    assert {path.name for path in folder.iterdir()} == {
        "model.safetensors",
        "config.json",
        "metrics.json",
        "golden.safetensors",
        "README.md",
    }


def test_output_does_not_depend_on_what_autograd_records(folder):
    model = load(folder)
    images = torch.rand(3, 1, 8, 8, requires_grad=True)
    recorded = model(images)
    with torch.inference_mode():
        torch.testing.assert_close(model(images), recorded)
    recorded.sum().backward()
    assert images.grad.abs().sum() > 0


def test_export_is_byte_stable(folder, original):
    again = export(network(adjoint="phantom"), folder, METRICS, inputs=read_golden(original)[0])
    for path in original.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name


def test_solver_can_be_exchanged_for_cost_or_accuracy(folder):
    model = load(folder, solver="broyden", max_steps=7)
    solver = model.equilibria[0].solver
    assert type(solver).__name__ == "Broyden"
    assert (solver.tol, solver.max_steps) == (1e-3, 7)
    assert load(folder, tol=1e-2).equilibria[0].solver.tol == 1e-2
    tight = load(folder, tol=1e-5)  # the recipe's 20 steps are for its own tolerance
    assert (tight.equilibria[0].solver.tol, tight.equilibria[0].solver.max_steps) == (1e-5, 100)
    tight(torch.rand(3, 1, 8, 8))
    assert tight.equilibria[0].solution.residual.max() <= 1e-5
    with pytest.raises(CheckpointError, match="anderson"):
        load(folder, solver="andersen")


def test_a_solver_that_fails_says_so_unless_the_budget_was_asked_for(folder):
    images = torch.rand(3, 1, 8, 8)
    with pytest.warns(NonConvergenceWarning, match="did not converge"):
        load(folder, tol=1e-30)(images)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(folder, solver="picard", max_steps=1)(images)  # a budget that was asked for
        load(folder)(images)


def test_inner_solves_of_a_loaded_entry_meet_another_tolerance_or_say_so():
    support, targets = torch.linspace(-3, 3, 10).reshape(1, 10, 1), torch.ones(1, 10, 1)
    tight = load("imaml_sinusoid", tol=1e-4)  # the recipe's 16 steps are for its own tolerance
    assert (tight.method.solver.tol, tight.method.solver.max_steps) == (1e-4, 1000)
    tight(support, targets, support)
    assert tight.solutions[0].residual.max() <= 1e-4
    with pytest.warns(NonConvergenceWarning, match="did not converge"):
        load("imaml_sinusoid", tol=1e-30)(support, targets, support)
    with pytest.raises(CheckpointError, match="gradient_descent, lbfgs, newton_cg"):
        load("imaml_sinusoid", solver="newton")


def test_large_networks_are_stored_as_half(folder, monkeypatch):
    monkeypatch.setattr("deqzoo.zoo.loading.HALF_ABOVE", 10)
    before = fingerprint(folder / "model.safetensors")["size"]
    trained = network()
    export(trained, folder, METRICS, inputs=read_golden(folder)[0])
    assert fingerprint(folder / "model.safetensors")["size"] < 0.7 * before
    inputs, logits = read_golden(folder)
    torch.testing.assert_close(load(folder)(**inputs), logits, rtol=1e-4, atol=1e-5)


def test_half_finished_export_leaves_the_old_folder(folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr("deqzoo.zoo.folder.write_json", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        export(network(), folder, METRICS, inputs={"images": torch.rand(3, 1, 8, 8)})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert list(folder.parent.iterdir()) == [folder]


def test_truncated_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="truncated"):
        load(folder)


def test_altered_weights(folder):
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match="altered"):
        load(folder)


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was run",))


@pytest.mark.parametrize("write", [pickle.dump, torch.save], ids=["pickle", "torch"])
def test_pickle_is_never_run(folder, write):
    with (folder / "model.safetensors").open("wb") as file:
        write(Bomb(), file)
    with pytest.raises(CheckpointError, match="is a pickle"):
        load(folder)


def test_rubbish_for_weights(folder):
    (folder / "model.safetensors").write_bytes(b"not weights at all")
    rewrite_config(folder, lambda config: config.update(weights=fingerprint(folder / "model.safetensors")))
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load(folder)


def test_names_and_shapes_of_weights(folder):
    weights = network().state_dict()
    first = next(iter(weights))
    save_weights(folder, {name: value for name, value in weights.items() if name != first})
    with pytest.raises(CheckpointError, match=f"do not fit.*{first}"):
        load(folder)
    save_weights(folder, weights | {first: torch.zeros(3, 3)})
    with pytest.raises(CheckpointError, match=f"do not fit.*{first}"):
        load(folder)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda c: c["model"].update(width=3), "no setting 'width'; valid are .*widths"),
        (lambda c: c["model"].update(kind="os.system"), "kind is 'os.system'; valid are .*contractive_classifier"),
        (lambda c: c["model"].update(solver="none"), "solver"),
        (lambda c: c["model"]["solver_options"].update(depht=3), "depht"),
        (lambda c: c["model"].update(widths="many"), "widths"),
        (lambda c: c["data"].update(labels=3), "labels"),
        (lambda c: c["data"].pop("mean"), "mean"),
        (lambda c: c.update(extra=1), "unknown or missing keys: extra"),
        (lambda c: c.update(format=99), "Update deqzoo"),
    ],
)
def test_wrong_config(folder, change, told):
    rewrite_config(folder, change)
    with pytest.raises(CheckpointError, match=told):
        load(folder)


def test_missing_files_and_wrong_paths(folder, tmp_path):
    with pytest.raises(CheckpointError, match="is a file"):
        load(folder / "config.json")
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not JSON"):
        load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"lacks config\.json"):
        load(folder)
    with pytest.raises(CheckpointError, match="no model or folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="Did you mean deq_digits"):
        deqzoo.load("deq_digts")


def test_export_needs_a_recipe(tmp_path):
    with pytest.raises(CheckpointError, match="build_network"):
        export(torch.nn.Linear(1, 1), tmp_path / "x", {})
