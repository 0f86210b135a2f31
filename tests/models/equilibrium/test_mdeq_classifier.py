"""The MDEQ recipes in the pipeline: trained, exported, loaded; the unrolled start; the Jacobian of a joint state."""

import json

import pytest
import torch

import deqzoo
from deqzoo.data import ImageData
from deqzoo.data.info import ImageInfo
from deqzoo.errors import ConfigError
from deqzoo.models import DEQClassifierModule, MDEQClassifier, build_network
from deqzoo.models.common.deq_module import jacobian_penalty
from deqzoo.models.common.shares import parameter_share
from deqzoo.models.equilibrium.config import MDEQClassifierConfig
from deqzoo.nn import DEQ
from deqzoo.training import Run
from deqzoo.training.history import read_history
from deqzoo.zoo.folder import read_golden
from tests.running import composed, run

SMALL = [
    "data=digits",
    "data.batch_size=64",
    "data.eval_batch_size=512",
    "data.augment.crop=0",
    "data.augment.flip=false",
    "model.expansion=2",
    "model.groups=2",
    "model.final_width=8",
    "model.solver_options.max_steps=4",
    "trainer.enable_progress_bar=False",
    "trainer.max_epochs=2",
    "trainer.limit_train_batches=2",
    "trainer.log_every_n_steps=1",
]
SHAPES = {
    "mdeq_cifar_small": ["model.widths=[4,4]", "model.head_widths=[2,3]"],
    "mdeq_cifar_large": ["model.widths=[4,4,6,8]", "model.head_widths=[2,2,3,4]"],
}


@pytest.fixture(scope="module", params=["mdeq_cifar_small", pytest.param("mdeq_cifar_large", marks=pytest.mark.slow)])
def finished(request, tmp_path_factory):
    """A short run of a recipe on a stand-in of its shape."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs") / "a"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deqzoo.plots.budget.STEPS", (1, 3))
        patch.setattr("deqzoo.models.equilibrium.kind.DRAWN", 50)
        return run(folder, f"model={request.param}", *SMALL, *SHAPES[request.param])


def test_recipe_trains(finished):
    metrics = json.loads((finished.folder / "metrics.json").read_text())
    assert metrics["test"]["n"] == 360
    assert metrics["test"]["nfe"] == 5
    assert metrics["deq_check"]["n"] == 360
    assert 0 < metrics["deq_check"]["parameter_share"] < 1
    assert {path.name for path in (finished.folder / "plots").iterdir()} == {
        "accuracy_over_nfe.png",
        "residuals.png",
        "training.png",
    }
    assert {"train/nfe", "train/residual", "val/accuracy"} <= set().union(
        *read_history(finished.folder / "metrics.csv")
    )


def test_export_loads_with_its_weight_norm(finished):
    folder = finished.folder / "export"
    inputs, output = read_golden(folder)
    model = deqzoo.load(folder)
    assert isinstance(model, MDEQClassifier)
    assert any(name.endswith("parametrizations.weight.original0") for name in model.state_dict())
    torch.testing.assert_close(model(**inputs), output, rtol=1e-4, atol=1e-4)
    assert deqzoo.load(folder, solver="anderson", max_steps=7).body.solver.max_steps == 7


def network(**settings):
    torch.manual_seed(0)
    data = ImageData("digits")
    small = {"widths": [4, 4], "expansion": 2.0, "groups": 2, "head_widths": [2, 3], "final_width": 8}
    solver = {"solver": "anderson", "solver_options": {"tol": 1e-3, "max_steps": 6}}
    info = ImageInfo(1, data.classes, data.mean, data.std)
    return build_network(MDEQClassifierConfig(**{**small, **solver, **settings}), info)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"groups": 3}, r"model\.groups=3 must"),
        ({"head_widths": [2]}, r"model\.head_widths"),
        ({"blocks": 0}, r"blocks"),
    ],
)
def test_wrong_settings_are_told_by_name(settings, message):
    with pytest.raises(ConfigError, match=message):
        network(**settings)


def test_first_steps_train_an_explicit_network(tmp_path):
    shape = SHAPES["mdeq_cifar_small"]
    options = ["model.unrolled_steps=2", "model.unrolled_depth=3"]
    options += ["model.adjoint_options.linear_solver=gmres", "~model.adjoint_options.linear_solver_options"]
    Run(composed("model=mdeq_cifar_small", *SMALL, *shape, *options), tmp_path).fit()
    rows = read_history(tmp_path / "metrics.csv")
    assert [row["train/nfe"] for row in rows if "train/nfe" in row] == [4, 4, 5, 5]
    assert [row["val/nfe"] for row in rows if "val/nfe" in row] == [5, 5]
    assert [row["step"] for row in rows if "train/nfe_backward" in row] == [2, 3]
    with pytest.raises(ValueError, match="unrolled_steps"):
        MDEQClassifierConfig(unrolled_steps=-1)


def test_jacobian_penalty_of_a_joint_state():
    class Linear(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(0.3 * torch.randn(5, 5))

        def initial_state(self, x):
            return x.new_zeros(len(x), 3), x.new_zeros(len(x), 2)

        def forward(self, z, x):
            joint = torch.cat(z, 1) @ self.weight.T + x
            return joint[:, :3], joint[:, 3:]

    torch.manual_seed(0)
    deq = DEQ(Linear())
    x = torch.zeros(20_000, 5)
    penalty = jacobian_penalty(deq, x, deq(x))
    torch.testing.assert_close(penalty, deq.cell.weight.square().sum() / 5, rtol=0.02, atol=0)
    torch.manual_seed(1)
    part = jacobian_penalty(deq, x, deq(x), samples=2)
    torch.manual_seed(1)
    torch.testing.assert_close(part, jacobian_penalty(deq, x[:2], deq(x[:2])))


def test_jacobian_penalty_joins_the_training_loss():
    module = DEQClassifierModule(network(), jacobian_penalty=0.5)
    module.log = module.log_dict = lambda *args, **kwargs: None
    module._when = str
    torch.manual_seed(1)
    batch = torch.rand(8, 1, 8, 8), torch.randint(10, (8,))
    loss = module.training_step(batch, 0)
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters())
    plain = DEQClassifierModule(network())
    plain.log, plain.log_dict, plain._when = module.log, module.log_dict, str
    assert loss > plain.training_step(batch, 0)
    assert parameter_share(module.network) == pytest.approx(
        sum(p.numel() for p in module.network.body.cell.parameters())
        / sum(p.numel() for p in module.network.parameters())
    )
