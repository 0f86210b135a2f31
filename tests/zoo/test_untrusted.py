"""Checkpoint folders that anyone may have written: nothing is run, nothing large is allocated, all is one error."""

import json
import random
import shutil
import time

import pytest
import safetensors.torch
import torch

from deqzoo.paths import zoo_path
from deqzoo.zoo import CheckpointError, load
from deqzoo.zoo.folder import CONFIG, METRICS, WEIGHTS, fingerprint, read_folder

ENTRY = zoo_path("checkpoints") / "node_spheres"


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(ENTRY, tmp_path / "entry")


def rewrite(folder, change):
    config = json.loads((folder / CONFIG).read_text())
    change(config)
    (folder / CONFIG).write_text(json.dumps(config))


def save(folder, weights):
    safetensors.torch.save_file(weights, folder / WEIGHTS)
    rewrite(folder, lambda config: config.update(weights=fingerprint(folder / WEIGHTS)))


def test_a_network_that_the_weights_do_not_fit_is_never_allocated(folder):
    rewrite(folder, lambda config: config["model"].update(hidden=1_000_000))  # 4 TB
    with pytest.raises(CheckpointError, match="do not fit"):
        load(folder)


def test_nor_is_one_of_a_billion_layers(tmp_path):
    folder = shutil.copytree(zoo_path("checkpoints") / "gcn_chains", tmp_path / "entry")
    rewrite(folder, lambda config: config["model"].update(depth=10**9))
    begin = time.process_time()
    with pytest.raises(CheckpointError, match="parameters, far more than its weights"):
        load(folder)
    assert time.process_time() - begin < 20


@pytest.mark.parametrize("value", ["${oc.env:HOME}", "a ${kind}", ["x", {"y": "${data}"}]])
def test_references_are_refused(folder, value):
    rewrite(folder, lambda config: config["model"].update(solver=value))
    with pytest.raises(CheckpointError, match=r"is refused\. Write the value out"):
        load(folder)
    rewrite(folder, lambda config: config["model"].update({"solver": "tsit5", "${oc.env:HOME}": 1}))
    with pytest.raises(CheckpointError, match="is refused"):
        load(folder)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_weights_that_are_no_numbers(folder, bad):
    weights = dict(read_folder(folder).weights)
    name, value = next((name, value) for name, value in weights.items() if value.dim() == 2)
    value[0, 0] = bad
    save(folder, weights)
    with pytest.raises(CheckpointError, match=f"has NaN or infinite values in {name}"):
        load(folder)
    save(folder, weights | {name: torch.zeros_like(value, dtype=torch.complex64)})
    with pytest.raises(CheckpointError, match=f"has complex numbers in {name}"):
        load(folder)
    save(folder, weights | {name: torch.zeros_like(value, dtype=torch.int8)})
    with pytest.raises(CheckpointError, match=f"{name} of the weights is torch.int8"):
        load(folder)
    save(folder, weights | {name: torch.zeros_like(value).to(torch.float8_e4m3fn)})
    with pytest.raises(CheckpointError, match=f"{name} is torch.float8_e4m3fn, which is not read"):
        load(folder)


@pytest.mark.parametrize("name", [CONFIG, METRICS])
@pytest.mark.parametrize("content", [b"\xff\xfe", b"[" * 100_000, b"[]", b"9" * 5000, b"null", b""])
def test_files_that_are_no_objects(folder, name, content):
    (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError):
        load(folder)


def test_any_value_in_any_place_loads_or_is_a_checkpoint_error(folder):
    """120 folders, in each of which one value of the configuration is another."""
    original, draw, refused = (folder / CONFIG).read_text(), random.Random(0), []
    values = [None, True, -1, 0, 3, 1e300, "", "x", "a.b.c", [], [1], [[]], {}, {"a": 1}, 10**30, -0.5, "\x00"]
    for _ in range(120):
        config = json.loads(original)
        place = draw.choice(list(places(config)))
        node = config
        for key in place[:-1]:
            node = node[key]
        node[place[-1]] = draw.choice(values)
        (folder / CONFIG).write_text(json.dumps(config))
        try:
            load(folder)
        except CheckpointError as error:
            refused.append(str(error))
    assert len(refused) > 60
    assert not any("\n" in message for message in refused)


def places(node, before=()):
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in inner:
        yield (*before, key)
        yield from places(value, (*before, key))


def test_a_name_that_no_path_can_have():
    with pytest.raises(CheckpointError, match="no model or folder"):
        load("\0")
