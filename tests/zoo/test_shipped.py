"""The checkpoints that come with deqzoo, and the pages that are made from them."""

import csv
import json
import os
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import deqzoo
from deqzoo.__main__ import main
from deqzoo.config import data_config, model_config, to_plain
from deqzoo.data import ImageData
from deqzoo.models.common.metrics import METRICS
from deqzoo.models.registry import kind_of
from deqzoo.paths import head, names, zoo_path
from deqzoo.training.as_recipe import of_recipe
from deqzoo.training.measure_again import measure_again
from deqzoo.training.stages import stage_config
from deqzoo.zoo import CheckpointError, cards, results
from deqzoo.zoo import shipped as shipped_module
from deqzoo.zoo.folder import CARD, FILES, GOLDEN, WEIGHTS, read_config, read_golden
from deqzoo.zoo.folder import METRICS as METRICS_FILE
from deqzoo.zoo.results import results_csv, results_page
from deqzoo.zoo.shipped import PLOTS, manifest, plots, shipped
from deqzoo.zoo.tables import stale
from tests.running import composed, to_plain_model

ENTRIES = shipped()


def folder(name):
    return zoo_path("checkpoints") / name


def metrics(name):
    return json.loads((folder(name) / METRICS_FILE).read_text())


def test_default_entry_is_shipped():
    assert "deq_digits" in deqzoo.list_models("deq*", pretrained=True)
    assert set(deqzoo.list_models(pretrained=True)) | set(deqzoo.list_models(pretrained=False)) == set(names("models"))
    assert deqzoo.list_models("no such*") == []


@pytest.mark.parametrize("name", ENTRIES)
def test_golden_output(name):
    inputs, output = read_golden(folder(name))
    # Another machine may stop a solve a step earlier or later: the tolerance is that of the solve.
    torch.testing.assert_close(deqzoo.load(name)(**inputs), output, rtol=0, atol=2e-2)


@pytest.mark.parametrize("name", ENTRIES)
def test_recipe_builds_the_shipped_network(name):
    """So that ``mode=test ckpt=pretrained``, which builds from the recipe, tests what `load` loads."""
    config = read_config(folder(name))
    assert config["name"] == name
    shipped_model = to_plain(model_config(config["model"], name))  # an older one lacks newer settings: their defaults
    assert to_plain_model(composed(f"model={name}")) == shipped_model


@pytest.mark.parametrize("name", [name for name in ENTRIES if "settings" in metrics(name)])
def test_it_was_trained_by_its_recipe_as_it_stands(name):
    """So that its command makes its number; where it does not, the head comment, the card and the table say so."""
    if not head(name, "Trained"):
        recipe, settings = of_recipe(name), metrics(name)["settings"]
        data = to_plain(data_config(settings["data"], name))  # an older one lacks newer settings: their defaults
        assert settings["data"].keys() <= recipe["data"].keys()
        settings["data"] = {key: data[key] for key in recipe["data"]}
        assert settings == {key: recipe[key] for key in ("stages", "data", "trainer")}


@pytest.mark.parametrize("name", [name for name in ENTRIES if metrics(name).get("started_from")])
def test_it_started_from_the_last_stage_of_its_recipe(name):
    stage = stage_config(name, of_recipe(name)["stages"][-1], [])
    command = shlex.join(["python", "train.py", f"model={stage.entry}", *stage.overrides, f"seed={stage.seed}"])
    assert metrics(name)["started_from"]["command"] == command


def test_a_command_that_does_not_reproduce_its_number_is_said_to(monkeypatch):
    """Where a recipe says ``# Trained: ...``, which none does at present, the card and the tables have it."""

    def said(name, label):
        return "with twice the steps" if (name, label) == ("deq_digits", "Trained") else head(name, label)

    for module in (cards, results):
        monkeypatch.setattr(module, "head", said)
    assert "| not reproducible by this command | with twice the steps |" in cards.model_card(
        read_config(folder("deq_digits")), metrics("deq_digits")
    )
    rows = {line.split("`")[1]: line for line in results_page().splitlines() if line.startswith("| [`")}
    assert [name for name, row in rows.items() if "does not reproduce it" in row] == ["deq_digits"]


@pytest.mark.parametrize("name", ENTRIES)
def test_head_comment_has_the_result(name):
    config = read_config(folder(name))
    metric = kind_of(config["model"]["kind"]).metric
    assert METRICS[metric].show(metrics(name)["test"][metric]) in head(name, "Result")


@pytest.mark.parametrize("name", ENTRIES)
def test_files_and_sizes(name):
    assert {path.name for path in folder(name).iterdir()} - {PLOTS} == set(FILES)
    card = (folder(name) / CARD).read_text()
    assert all(f"](plots/{plot})" in card for plot in plots(folder(name)))
    assert set(manifest()[name]) == set(FILES) - {CARD, WEIGHTS}  # config.json has the fingerprint of the weights
    assert sum((folder(name) / file).stat().st_size for file in FILES) < 10e6


def test_all_checkpoints_together_are_small():
    """They travel inside the wheel: a package index takes files of up to 100 MB."""
    assert sum(path.stat().st_size for path in zoo_path("checkpoints").rglob("*")) < 60e6


def test_accuracy_of_the_default_entry_is_its_metrics():
    data = ImageData("digits")
    data.setup()
    images, labels = next(iter(data.test_dataloader()))
    right = (deqzoo.load("deq_digits")(images).argmax(1) == labels).float().mean().item()
    assert right == pytest.approx(metrics("deq_digits")["test"]["accuracy"], abs=1e-5)
    assert right >= 0.97


def test_loads_in_a_fresh_process_and_another_folder(tmp_path):
    script = "import deqzoo; m = deqzoo.load('deq_digits'); print(len(m.classes), m.training)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script]
    told = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["10", "False"]
    assert not told.stderr


def test_altered_shipped_file_is_found(tmp_path, monkeypatch):
    copy = shutil.copytree(zoo_path("checkpoints"), tmp_path / "checkpoints")
    monkeypatch.setattr(shipped_module, "zoo_path", lambda kind: tmp_path / kind)
    weights = copy / "deq_digits" / WEIGHTS
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=r"model\.safetensors was altered"):
        deqzoo.load("deq_digits")
    weights.write_bytes(content)
    assert deqzoo.load("deq_digits")
    path = copy / "deq_digits" / METRICS_FILE
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(CheckpointError, match="altered"):
        deqzoo.load("deq_digits")
    path.unlink()
    with pytest.raises(CheckpointError, match="missing"):
        deqzoo.load("deq_digits")


def test_shipped_weights_are_measured_again(tmp_path, monkeypatch):
    """Metrics, check and golden output are what the weights give; the rest of the metrics stays."""
    copy = shutil.copytree(zoo_path("checkpoints"), tmp_path / "checkpoints") / "deq_digits"
    monkeypatch.setattr(shipped_module, "zoo_path", lambda kind: tmp_path / kind)
    whole = metrics("deq_digits")
    stale_ones = whole | {"test": whole["test"] | {"accuracy": 0.5}, "deq_check": {}}
    (copy / METRICS_FILE).write_text(json.dumps(stale_ones))
    inputs, output = read_golden(copy)
    save_file(inputs | {"output": output + 1}, copy / GOLDEN)
    config = json.loads((copy / "config.json").read_text())
    earlier = config | {"model": config["model"] | {"solver": "anderson", "train_tol": None}}  # of the same weights
    (copy / "config.json").write_text(json.dumps(earlier))
    shipped_module.write_manifest()
    before, now = measure_again("deq_digits")
    assert before["accuracy"] == 0.5
    assert now["accuracy"] == whole["test"]["accuracy"]
    found = json.loads((copy / METRICS_FILE).read_text())
    assert found["deq_check"]["parameter_share"] == pytest.approx(whole["deq_check"]["parameter_share"])
    assert {key: found[key] for key in ("seeds", "time", "steps", "command")} == {
        key: whole[key] for key in ("seeds", "time", "steps", "command")
    }
    again = json.loads((copy / "config.json").read_text())
    assert again.keys() == config.keys()
    assert again["model"].keys() == config["model"].keys()  # of its format
    assert [again["model"][key] for key in ("solver", "train_tol")] == ["picard", 1e-2]
    torch.testing.assert_close(read_golden(copy)[1], output, rtol=0, atol=1e-3)
    assert deqzoo.load("deq_digits")  # the manifest has the new files
    with pytest.raises(CheckpointError, match="no entry with weights"):
        measure_again("mdeq_cifar_large")


def run_of_seed(folder, seed, **changes):
    """What `add_seeds` reads of a finished run of deq_sudoku4."""
    (folder / str(seed)).mkdir()
    found = {"entry": "deq_sudoku4", "seed": seed, "test": {"puzzles_solved": 0.5}}
    found["command"] = f"python train.py model=deq_sudoku4 seed={seed}"
    (folder / str(seed) / METRICS_FILE).write_text(json.dumps(found | changes))
    return folder / str(seed)


def test_other_seeds_join_mean_and_spread(tmp_path, monkeypatch):
    copy = shutil.copytree(zoo_path("checkpoints"), tmp_path / "checkpoints") / "deq_sudoku4"
    monkeypatch.setattr(shipped_module, "zoo_path", lambda kind: tmp_path / kind)
    before = metrics("deq_sudoku4")
    assert shipped_module.add_seeds([run_of_seed(tmp_path, seed) for seed in (9, 7)]) == "deq_sudoku4"
    found = json.loads((copy / METRICS_FILE).read_text())
    values = [*before["seeds"]["puzzles_solved"], 0.5, 0.5]
    assert found["seeds"]["seeds"] == [*before["seeds"]["seeds"], 7, 9]
    assert found["seeds"]["puzzles_solved"] == values
    assert found["seeds"]["standard_deviation"] == pytest.approx(np.std(values, ddof=1))
    assert found | {"seeds": 0} == before | {"seeds": 0}
    assert deqzoo.load("deq_sudoku4")  # the manifest has the new metrics
    wrong = [
        (run_of_seed(tmp_path, 0), "has a number of seed 0 already"),
        (run_of_seed(tmp_path, 8, command="python train.py model=deq_sudoku4 model.lr=1"), "differ in more than"),
        (run_of_seed(tmp_path, 10, entry="mdeq_cifar_large"), "no entry with weights: publish"),
        (tmp_path / "11", "not a finished run"),
    ]
    for run, told in wrong:
        with pytest.raises(CheckpointError, match=told):
            shipped_module.add_seeds([run])
    assert json.loads((copy / METRICS_FILE).read_text()) == found


def test_entry_without_weights_says_how_to_train_it(monkeypatch):
    monkeypatch.setattr("deqzoo.zoo.loading.shipped", list)
    with pytest.raises(CheckpointError, match=r"python train\.py model=deq_digits"):
        deqzoo.load("deq_digits")


def test_generated_pages_are_up_to_date():
    assert not stale(), "run `python -m deqzoo tables`"


def test_results_have_one_row_an_entry():
    rows = [line.split("`")[1] for line in results_page().splitlines() if line.startswith("| [`")]
    assert sorted(rows) == ENTRIES
    table = {row["entry"]: row for row in csv.DictReader(results_csv().splitlines())}
    assert sorted(table) == ENTRIES
    accuracy = metrics("deq_digits")["test"]["accuracy"]
    assert (table["deq_digits"]["metric"], float(table["deq_digits"]["value"])) == ("accuracy", accuracy)


def test_results_say_which_entries_fail_their_check():
    def passes(name):
        check = kind_of(read_config(folder(name))["model"]["kind"]).check
        return check is None or metrics(name).get(check.name, {}).get("passed", True)

    rows = {line.split("`")[1]: line for line in results_page().splitlines() if line.startswith("| [`")}
    failing = [name for name in ENTRIES if not passes(name)]
    assert [name for name in ENTRIES if "fails its check" in rows[name]] == failing
    table = {row["entry"]: row for row in csv.DictReader(results_csv().splitlines())}
    assert [name for name in ENTRIES if table[name]["check_passed"] == "False"] == failing
    assert "revdeq_cifar" in failing


def test_command_line(capsys):
    main(["list"])
    assert "deq_digits *" in capsys.readouterr().out
    main(["tables", "--check"])
    with pytest.raises(SystemExit):
        main(["publish", "no/such/run"])
    with pytest.raises(SystemExit, match="Error: no/such/run is not a run's folder"):
        main(["seeds", "no/such/run"])
    with pytest.raises(SystemExit, match="Error: 'no such entry' is no entry with weights"):
        main(["measure", "no such entry"])
