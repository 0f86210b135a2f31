"""Language models in the pipeline: trained, resumed, exported, loaded; one batch learned by heart."""

import json
import math

import pytest
import torch

import deqzoo
from deqzoo.config import load_run
from deqzoo.data import Vocabulary
from deqzoo.data.info import IGNORED
from deqzoo.errors import ConfigError
from deqzoo.implicit import Phantom
from deqzoo.models import LanguageModel
from deqzoo.models.language.bits import bits_per_char, perplexity, totals
from deqzoo.models.language.check import SAMPLE
from deqzoo.models.language.module import LanguageModelModule
from deqzoo.training import Run
from deqzoo.training.history import read_history
from deqzoo.zoo import CheckpointError
from deqzoo.zoo.folder import read_golden
from tests.running import composed, run
from tests.texts import write_text

SMALL = [
    "data=text_file",
    "data.length=16",
    "data.context=8",
    "data.batch_size=16",
    "model.width=8",
    "model.heads=2",
    "model.ema_decay=0.5",
    "trainer.max_epochs=2",
    "trainer.log_every_n_steps=1",
    "trainer.enable_progress_bar=False",
]


SOLVES = ["model.solver_options.tol=1e-6", "model.train_max_steps=7"]
CERTIFIED = ["model.rho_max=0.9", "model.rho=0.7", "model.features=4", "model.size=3", "trainer.precision=32-true"]
BOUNDED, UNBOUNDED = "deq_lm_shakespeare", "deq_lm_shakespeare_unbounded"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Overrides that make a recipe small, and its text too."""
    return [*SMALL, f"data.file={write_text(tmp_path_factory.mktemp('text') / 'own.txt')}"]


@pytest.fixture(scope="module")
def words(small):
    """The command line of the recipe with a transformer cell."""
    return [f"model={UNBOUNDED}", *small, *SOLVES, "model.dropout=0.1"]


@pytest.fixture(scope="module")
def finished(words, tmp_path_factory):
    """A finished run."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SAMPLE, "length", 10)
        return run(tmp_path_factory.mktemp("runs") / "a", *words)


def test_bits_of_known_predictions():
    characters = torch.tensor([0, 1, 3, 5])
    targets = torch.tensor([[1, 2, IGNORED], [3, IGNORED, 1]])
    sums = totals(torch.zeros(2, 3, 4), targets, characters)  # uniform over four tokens
    assert sums.tolist() == pytest.approx([4 * math.log(4), 4, 1 + 3 + 5 + 1])
    assert bits_per_char(sums).item() == pytest.approx(4 * 2 / 10)
    assert perplexity(sums).item() == pytest.approx(4)


def test_run_folder_and_logs(finished):
    plots = {path.name for path in (finished.folder / "plots").iterdir()}
    assert plots == {"training.png", "residuals.png", "bits_over_nfe.png"}
    history = read_history(finished.folder / "metrics.csv")
    columns = set().union(*history)
    logged = {f"train/{name}" for name in ("bits_per_char", "nfe", "residual", "nfe_backward", "jacobian")}
    assert logged | {"val/bits_per_char", "val/residual"} <= columns
    assert {row["train/nfe"] for row in history if "train/nfe" in row} == {finished.settings.model.train_max_steps + 1}
    metrics = json.loads((finished.folder / "metrics.json").read_text())
    assert metrics["test"]["nfe"] == 12
    begin, end = finished.data.spans["test"]
    assert not metrics["language_model_check"]["certified"]
    assert metrics["test"]["n"] == metrics["language_model_check"]["n"] == end - begin - 1
    assert metrics["test"]["bits_per_char"] == pytest.approx(metrics["test"]["loss"] / math.log(2), rel=1e-4)
    assert metrics["test"]["perplexity"] == pytest.approx(math.exp(metrics["test"]["loss"]), rel=1e-4)
    card = (finished.folder / "export" / "README.md").read_text()
    for told in ("bits per character on the", "ablation: these weights, the cell applied once", "`model.generate("):
        assert told in card


def test_export_loads_and_generates(finished):
    folder = finished.folder / "export"
    inputs, output = read_golden(folder)
    model = deqzoo.load(folder)
    torch.testing.assert_close(model(**inputs), output, rtol=1e-4, atol=1e-4)
    text = model.generate("to be", length=20, temperature=0.8, top_k=5, seed=1)
    assert len(text) == 25
    assert deqzoo.load(folder).generate("to be", length=20, temperature=0.8, top_k=5, seed=1) == text
    assert type(deqzoo.load(folder, solver="picard", tol=1e-4).deq.solver).__name__ == "Picard"


def test_mode_test_repeats_the_number(finished, words, tmp_path):
    again = run(tmp_path, *words, "mode=test", f"ckpt={finished.folder}")
    assert again.metrics["test"]["bits_per_char"] == finished.metrics["test"]["bits_per_char"]


def test_cut_off_run_resumes_to_the_same_parameters(finished, words, tmp_path, monkeypatch):
    def die(self, batch, batch_idx):
        if self.global_step == 8:
            raise OSError("killed")
        return step(self, batch, batch_idx)

    step = LanguageModelModule.training_step
    monkeypatch.setattr(LanguageModelModule, "training_step", die)
    with pytest.raises(OSError, match="killed"):
        run(tmp_path, *words, "save_every_n_steps=3")
    monkeypatch.setattr(LanguageModelModule, "training_step", step)
    resumed = Run(load_run(tmp_path, [f"resume={tmp_path}"]), tmp_path)
    torch.rand(7)
    resumed.fit()
    expected = finished.module.state_dict()
    for name, value in resumed.module.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-6, msg=name)


def test_a_contractive_cell_is_certified_and_every_window_converges(small, tmp_path, monkeypatch):
    monkeypatch.setitem(SAMPLE, "length", 10)
    done = run(tmp_path, f"model={BOUNDED}", *small, *CERTIFIED)
    check, test = done.metrics["language_model_check"], done.metrics["test"]
    assert check["certified"]
    assert check["unconverged"] == test["unconverged"] == 0
    assert check["largest_residual"] <= check["tol"] == done.settings.model.solver_options["tol"]
    assert check["nfe"] <= 30
    assert check["bits"] == pytest.approx(test["bits_per_char"], rel=1e-4)
    assert check["bits_tight"] == pytest.approx(check["bits"], abs=1e-3)
    begin, end = done.data.spans["test"]
    assert check["n"] == end - begin - 1
    counted = {
        name: sum(p.numel() for p in part.parameters()) for name, part in done.module.trained_network.named_children()
    }
    assert check["state_share"] == pytest.approx(counted["deq"] / sum(counted.values()))
    assert check["parameter_share"] == pytest.approx((counted["deq"] + counted["injection"]) / sum(counted.values()))
    card = (tmp_path / "export" / "README.md").read_text()
    assert "| the cell is certified to contract | yes |" in card
    assert f"| {check['windows']} of {check['windows']} | all, within 30 NFE |" in card
    assert deqzoo.load(tmp_path / "export").deq.certified


def test_explicit_baseline(small, tmp_path):
    baseline = run(tmp_path, "model=lm_shakespeare", *small, "trainer.max_steps=2")
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"training.png"}
    card = (tmp_path / "export" / "README.md").read_text()
    assert "the explicit baseline" in card
    assert "Does the equilibrium do the work?" not in card
    assert "nfe" not in baseline.metrics["test"]
    with pytest.raises(CheckpointError, match="has no solver to choose"):
        deqzoo.load(tmp_path / "export", tol=1e-3)


def test_words_are_told_in_bits_a_character(tmp_path):
    folder = tmp_path / "wikitext-103"
    folder.mkdir()
    for name in ("train", "valid", "test"):
        write_text(folder / f"wiki.{name}.tokens", lines=40)
    options = ["data=wikitext103", f"data.root={tmp_path}", "data.length=16", "data.context=8", "trainer.max_steps=2"]
    test = run(tmp_path / "run", "model=lm_shakespeare", *SMALL[3:], "data.batch_size=4", *options).metrics["test"]
    characters = len((folder / "wiki.test.tokens").read_text()) - len("to ")
    assert test["n"] == 40 * 6 - 1
    assert test["bits_per_char"] == pytest.approx(test["loss"] * test["n"] / math.log(2) / characters, rel=0.02)


def test_one_batch_is_learned_by_heart():
    torch.manual_seed(0)
    text = "What's in a name? That which"
    vocabulary = Vocabulary.of(text, "characters")
    network = LanguageModel(vocabulary=vocabulary, window=50, width=32, heads=2, adjoint=Phantom(steps=3))
    module = LanguageModelModule(network)
    tokens = vocabulary.encode(text)[None]
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    for _ in range(60):
        loss = module.step(network, (tokens[:, :-1], tokens[:, 1:]), "train").loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    assert network.eval().generate("What's in a name?", length=len(text) - 17, temperature=0.0) == text


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("model.heads=3", "model.heads=3 must divide width=8"),
        ("model.layers=2", "model.* has no meaning for model.layers=2, explicit layers"),
        ("model.layers=-1", "model.layers must not be negative"),
        ("model.cell=liquid", "model.cell=liquid: valid are transformer, contractive"),
        ("model.cell=contractive", "model.dropout has no meaning for model.cell=contractive"),
        ("model.rho=0.5", "model.rho has no meaning for model.cell=transformer"),
        ("model.solver=anderso", "model.solver=anderso: valid are anderson"),
        ("model.adjoint_options.steps=3", "model.adjoint=implicit: .*steps"),
        ("data=digits", "data=digits has images; .* needs tokens"),
        ("data.file=null", r"data=text_file and data\.file=PATH belong together"),
    ],
)
def test_wrong_value_stops_the_run_before_training(override, told, words, tmp_path):
    words = [word for word in words if not word.startswith("data")] if override == "data=digits" else words
    with pytest.raises(ConfigError, match=told):
        Run(composed(*words, override), tmp_path)
