"""The image classifier: shapes, normalisation inside, gradients, eval mode, saving, copying, layouts."""

import copy

import pytest
import torch

from deqzoo.implicit import Anderson, Implicit, OneStep, Picard
from deqzoo.models import DEQClassifier
from deqzoo.nn import DEQ


def build(**options):
    """A small classifier of two stages, solved to the digits of float32."""
    torch.manual_seed(0)
    defaults = {
        "in_channels": 3,
        "classes": ["cat", "dog", "owl"],
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.3, 0.4],
        "widths": [8, 16],
        "solver": Anderson(tol=1e-5, max_steps=60),
    }
    return DEQClassifier(**{**defaults, **options})


def images(n=3, size=8):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("n", [0, 1, 5])
@pytest.mark.parametrize("size", [8, 9])
def test_logits_have_a_column_per_class(n, size):
    model = build()
    logits = model(images(n, size))
    assert logits.shape == (n, 3)
    assert model.classes == ("cat", "dog", "owl")


def test_each_stage_is_an_equilibrium_of_half_the_resolution():
    model = build(widths=[8, 16, 24])
    model(images())
    assert len(model.equilibria) == 3
    assert all(isinstance(stage, DEQ) for stage in model.equilibria)
    shapes = [tuple(stage.solution.value.shape) for stage in model.equilibria]
    assert shapes == [(3, 8, 8, 8), (3, 16, 4, 4), (3, 24, 2, 2)]
    for stage in model.equilibria:
        assert stage.solution.converged.all()
        assert (stage.solution.residual <= 1e-5).all()


@pytest.mark.parametrize(("entry_kernel", "sides"), [(3, [5, 3]), (2, [4, 2])])
def test_with_a_stem_each_stage_halves_the_resolution(entry_kernel, sides):
    model = build(stem=8, entry_kernel=entry_kernel, cell="plain")
    assert model(images(size=9)).shape == (3, 3)
    assert [stage.solution.value.shape[-1] for stage in model.equilibria] == sides
    names = {name.partition(".")[0] for name, _ in model.named_parameters()}
    assert names == {"stem", "entries", "stages", "norm", "head"}


def test_without_a_stem_there_is_none_in_the_weights():
    assert not any(name.startswith("stem") for name in build().state_dict())


def test_batch_normalisation_stands_outside_the_cells_and_has_no_effect_across_samples_in_eval_mode():
    model = build(stem=8, entry_kernel=2, entry_norm="batch", cell="plain")
    cells = {m for stage in model.equilibria for m in stage.modules()}
    norms = [m for m in model.modules() if isinstance(m, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d))]
    assert len(norms) == 4
    assert not cells & set(norms)
    for _ in range(3):
        model(images(8))
    model.eval()
    together = model(images(3))
    for i in range(3):
        assert torch.allclose(model(images(3)[i : i + 1])[0], together[i], atol=1e-4)


@pytest.mark.parametrize("setting", [{"cell": "liquid"}, {"entry_kernel": 5}, {"entry_norm": "layer"}])
def test_cells_and_kernels_that_there_are_not_are_errors_that_name_them(setting):
    ((name, value),) = setting.items()
    with pytest.raises(ValueError, match=rf"{name}.*{value}"):
        build(**setting)


def test_the_normalisation_is_inside():
    plain = build(mean=[0.0] * 3, std=[1.0] * 3).eval()
    inside = build().eval()
    mean, std = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1), torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)
    assert torch.allclose(inside(images()), plain((images() - mean) / std), atol=1e-4)


def test_every_parameter_gets_a_gradient():
    model = build()
    torch.nn.functional.cross_entropy(model(images()), torch.tensor([0, 1, 2])).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name
    assert all(stage.solution.backward.converged.all() for stage in model.equilibria)


def test_gradients_agree_with_an_unrolled_network_in_float64():
    model = build(solver=Anderson(max_steps=300), adjoint=Implicit()).double()
    data = images(2).double()

    def unrolled(data):
        x = (data - model.mean) / model.std
        for entry, stage in zip(model.entries, model.stages, strict=True):
            x = entry(x)
            z = torch.zeros_like(x)
            for _ in range(150):
                z = stage.cell(z, x)
            x = z
        return model.head(model.norm(x).mean(dim=(2, 3)))

    target = torch.tensor([0, 2])
    parameters = list(model.parameters())
    ours = torch.autograd.grad(torch.nn.functional.cross_entropy(model(data), target), parameters)
    reference = torch.autograd.grad(torch.nn.functional.cross_entropy(unrolled(data), target), parameters)
    for a, b, (name, _) in zip(ours, reference, model.named_parameters(), strict=True):
        assert (a - b).norm() <= 1e-7 * b.norm() + 1e-12, name


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad], ids=["inference_mode", "no_grad"])
def test_eval_without_a_tape_gives_the_same_logits(mode):
    model = build().eval()
    expected = model(images())
    assert expected.requires_grad
    with mode():
        assert torch.allclose(model(images()), expected, atol=1e-6)


def test_a_sample_gets_the_same_logits_in_any_batch():
    model = build().eval()
    together = model(images(4))
    for i in range(4):
        assert torch.allclose(model(images(4)[i : i + 1])[0], together[i], atol=2e-3)


def test_a_state_dict_makes_the_round_trip_and_holds_no_solver_state(tmp_path):
    model = build().eval()
    expected = model(images())
    assert not [key for key in model.state_dict() if "solution" in key or key in ("mean", "std")]
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    other = build()
    for parameter in other.parameters():
        torch.nn.init.normal_(parameter)
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True), strict=True)
    assert torch.equal(other.eval()(images()), expected)


def test_a_deepcopy_after_a_forward_is_independent():
    model = build()
    logits = model(images())
    twin = copy.deepcopy(model)
    assert torch.equal(twin(images()), logits)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1)
    assert torch.equal(model(images()), logits)


def test_channels_last_gives_the_same_logits_and_gradients():
    plain, fast = build(), build().to(memory_format=torch.channels_last)
    a = plain(images())
    b = fast(images().to(memory_format=torch.channels_last))
    assert torch.allclose(a, b, atol=1e-4)
    assert fast.equilibria[0].solution.value.is_contiguous(memory_format=torch.channels_last)
    target = torch.tensor([0, 1, 2])
    flat = []
    for model, logits in ((plain, a), (fast, b)):
        grads = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, target), list(model.parameters()))
        flat.append(torch.cat([g.flatten() for g in grads]))
    assert (flat[0] - flat[1]).norm() < 1e-3 * flat[0].norm()


def test_bfloat16_autocast_trains():
    model = build(solver=Anderson(tol=1e-2, max_steps=30))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = torch.nn.functional.cross_entropy(model(images()).float(), torch.tensor([0, 1, 2]))
    loss.backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.dtype == torch.float32 for p in model.parameters())


def test_dropout_changes_between_forwards_and_is_off_in_eval():
    model = build(cell_options={"dropout": 0.5})
    assert not torch.equal(model(images()), model(images()))
    assert all(stage.solution.converged.all() for stage in model.equilibria)
    model.eval()
    assert torch.equal(model(images()), model(images()))


def test_a_few_steps_of_training_lower_the_loss():
    model = build(solver=Picard(tol=1e-2, max_steps=20), adjoint=OneStep())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    labels = torch.arange(6) % 3
    losses = []
    for _ in range(12):
        loss = torch.nn.functional.cross_entropy(model(images(6, size=6)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": [0.5]}, "3 channels"),
        ({"std": [0.5] * 4}, "3 channels"),
        ({"widths": []}, "one stage or more"),
        ({"widths": [8, 0]}, "each of one channel or more"),
        ({"widths": [12]}, "^entry_groups=8"),
        ({"entry_norm": "batch", "widths": [12]}, "^cell=residual: groups=8"),
        ({"cell_options": {"depth": 2}}, "^cell=residual: cell 'residual' has no option depth. Valid: expansion, "),
    ],
)
def test_bad_options_are_errors_that_say_what_is_needed(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)
