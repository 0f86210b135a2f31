"""`benchmarks/gpu.py` on the pretended device: what its first run on a GPU would show of mixed devices."""

import pytest

from benchmarks import gpu
from benchmarks.measure import time_on
from tests.second_device.pretended import Waits

FAMILIES = {family.name: family for family in gpu.families()}
EAGER = [
    (family, number)
    for family in FAMILIES
    for number, way in enumerate(FAMILIES[family].ways)
    if way.library == "deqzoo" and way.way.endswith("eager")
]


@pytest.mark.parametrize(("family", "number"), EAGER)
@pytest.mark.filterwarnings("ignore")
def test_a_step_runs_on_another_device(family, number, device):
    step = gpu.Step(FAMILIES[family].ways[number], FAMILIES[family], device, quick=True)
    time_on(device)(step)
    assert {parameter.device for parameter in step.module.parameters()} == {device}
    with Waits() as waits:
        step.backward()
    assert waits.total <= 31


def test_a_way_that_fails_is_a_row_with_its_error(device):
    way = gpu.Way("deqzoo", "wrong", ["model=deq_digits", "model.widhts=3"])
    row, step = gpu.prepared(way, FAMILIES["equilibrium"], device, quick=True)
    assert step is None
    assert "widhts" in row.error
