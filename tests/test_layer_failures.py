"""Every public layer and network, and every fault of its input: no finite wrong value comes without a warning.

What `deqzoo.nn` and `deqzoo.models` offer is either tried or listed as what holds no solver: a new name fails the test.
"""

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

import deqzoo.models
import deqzoo.nn
from deqzoo.data import Vocabulary
from deqzoo.implicit import (
    EQUATION_ADJOINTS,
    LBFGS,
    RK4,
    Anderson,
    ForwardBackward,
    Kvaerno5,
    PeacemanRachford,
    Picard,
    Rodas5P,
    Status,
    Tsit5,
    make_adjoint,
)
from deqzoo.models import (
    CellSearch,
    ContractiveLanguageModel,
    DataCleaner,
    DecayLearner,
    DEQClassifier,
    ImplicitGraphNetwork,
    LanguageModel,
    MDEQClassifier,
    MetaLearner,
    contractive_net,
    mondeq_conv,
    mondeq_fc,
)
from deqzoo.nn import (
    DEQ,
    IMAML,
    MAML,
    AttentionInjection,
    ContinuousFlow,
    ContractiveAttentionCell,
    ContractiveConvCell,
    ContractiveLinearCell,
    FirstOrderMAML,
    FlowODE,
    MDEQCell,
    MLPDynamics,
    MonDEQ,
    MonotoneConv2d,
    MonotoneLinear,
    NeuralODE,
    ProgramLayer,
    TransformerCell,
    squash_mlp,
    use_solver,
)
from tests.implicit.failures import INF, NAN, outcomes, told, with_bad, with_nan
from tests.implicit.test_failures import show

IMAGES = {"classes": ["a", "b"], "mean": [0.5], "std": [0.5]}
SHARP = Anderson(tol=1e-5, max_steps=200)


def bounded_cell(z, x):
    """An infinite input looks as good as any to it."""
    return torch.tanh(0.5 * z + x)


def rows(*shape):
    return torch.rand(3, *shape, generator=torch.Generator().manual_seed(0))


LAYERS = {  # name: (layer, a batch of three)
    "DEQ": (lambda: DEQ(bounded_cell, solver=SHARP), rows(4)),
    "ContractiveLinearCell": (lambda: DEQ(ContractiveLinearCell(4), solver=Picard(tol=1e-5, max_steps=100)), rows(4)),
    "ContractiveConvCell": (
        lambda: DEQ(ContractiveConvCell(4, (5, 5)), solver=Picard(tol=1e-5, max_steps=100)),
        rows(4, 5, 5),
    ),
    "ContractiveAttentionCell": (
        lambda: nn.Sequential(
            AttentionInjection(4, 8, heads=2, window=5),
            DEQ(ContractiveAttentionCell(8, heads=2), solver=Picard(tol=1e-5, max_steps=100)),
        ),
        rows(5, 4),
    ),
    "contractive_net": (lambda: contractive_net((8, 8), ["a", "b"], [0.5], [0.5], widths=[4]), rows(1, 8, 8)),
    "DEQ of a transformer": (lambda: DEQ(TransformerCell(8, 2), solver=SHARP), rows(5, 8)),
    "DEQ of many resolutions": (lambda: DEQ(MDEQCell([8, 8], groups=2), solver=SHARP), rows(8, 6, 6)),
    "MonDEQ": (lambda: MonDEQ(MonotoneLinear(4), solver=PeacemanRachford(tol=1e-5, max_steps=500)), rows(4)),
    "MonDEQ, forward-backward": (
        lambda: MonDEQ(MonotoneLinear(4), solver=ForwardBackward(tol=1e-5, max_steps=900)),
        rows(4),
    ),
    "MonDEQ of convolutions": (
        lambda: nn.Sequential(
            nn.ZeroPad2d(MonotoneConv2d([4]).borders[0]),
            MonDEQ(MonotoneConv2d([4]), solver=PeacemanRachford(tol=1e-5, max_steps=500)),
        ),
        rows(4, 6, 6),
    ),
    "DEQClassifier": (lambda: DEQClassifier(in_channels=1, widths=[8], entry_groups=4, solver=SHARP, **IMAGES),
                      rows(1, 8, 8)),
    "MDEQClassifier": (
        lambda: MDEQClassifier(**IMAGES, in_channels=1, widths=[8, 8], head_widths=[2, 2], final_width=8, groups=2,
                               solver=SHARP),
        rows(1, 8, 8),
    ),
    "ProgramLayer": (lambda: ProgramLayer(4, 2), rows(4)),
    "mondeq_fc": (lambda: mondeq_fc(64, features=20, solver=PeacemanRachford(tol=1e-5, max_steps=500), **IMAGES),
                  rows(1, 8, 8)),
    "mondeq_conv": (lambda: mondeq_conv(widths=[4, 8], grid=2, solver=PeacemanRachford(tol=1e-5, max_steps=500),
                                        **IMAGES), rows(1, 8, 8)),
}  # fmt: skip
METHODS = {
    "MAML": MAML(steps=2, lr=0.1),
    "FirstOrderMAML": FirstOrderMAML(steps=2, lr=0.1),
    "IMAML": IMAML(strength=2.0, solver=LBFGS(tol=1e-4)),
}
OWN_TEST = {
    "CellSearch", "ContractiveLanguageModel", "DataCleaner", "DeblurNetwork", "DecayLearner", "ImplicitGraphNetwork",
    "ImplicitPictures", "LanguageModel", "MazePlanner", "MetaLearner", "SudokuEquilibrium", "SudokuProgram",
    "fixed_steps",
}  # fmt: skip
NO_SOLVER = {
    "Adaptation", "Adjacency", "AttentionInjection", "AttentionInput", "BottleneckDynamics", "CELLS",
    "ConcatSquashNet", "ContractiveCell", "ConvCell", "ConvDynamics", "DensityDynamics", "FewShotNetwork",
    "GRUDClassifier", "GraphCell", "GraphConvolutionNetwork", "Hamiltonian", "INTERPOLATIONS", "ImageClassifier",
    "MDEQCell", "MLPDynamics", "MLPVectorField", "MazeLayers", "PiecewisePolynomial", "SeparableHamiltonian",
    "hermite_cubic", "natural_cubic", "piecewise_linear", "rectilinear", "MonotoneCell", "MonotoneConv2d",
    "MonotoneLinear", "PendulumPINN", "PlainConvCell", "SirenPictures", "SolverLayer", "SudokuConvNet",
    "TransformerCell", "UNet", "conv_net", "make_cell", "normalized_adjacency", "perron_frobenius", "propagate",
    "residual_net", "solver_layers", "squash_conv_net", "squash_mlp", "use_solver",
}  # fmt: skip
PIPELINE = {  # of deqzoo.models: no networks
    "Classifier", "DEQClassifierConfig", "DEQClassifierModule", "ImageInfo", "NonFiniteError", "ODEClassifierModule",
    "PointInfo", "SolverModule", "build_network",
}  # fmt: skip
SQUASH = MLPDynamics(2, 8)
ODE_LAYERS = {
    "NeuralODE": lambda solver: NeuralODE(SQUASH, solver=solver),
    "FlowODE": lambda solver: lambda x: FlowODE(squash_mlp(2, (8,)), solver=solver).eval().to_base(x)[0],
    "ContinuousFlow": lambda solver: (
        lambda x: ContinuousFlow(squash_mlp(2, (8,)), (2,), solver=solver).eval().log_prob(x).unsqueeze(1)
    ),
}
ODE_SOLVERS = {"Tsit5": Tsit5, "RK4": lambda **_: RK4(step_size=0.1), "Kvaerno5": Kvaerno5, "Rodas5P": Rodas5P}
ODES = {  # built of those that are tried, or with tests of their own in tests/nn/test_{ode,flow,cde,hamiltonian}.py
    "HamiltonianODE", "HamiltonianOrbits", "NeuralCDE", "NeuralCDEClassifier", "PlainOrbits", "FlatFlow",
    "ImageFlow", "LatentODE", "LatentODEClassifier", "MultiscaleFlow",
     "ODEClassifier", "PendulumODE", "UNetFlow", "anode_net", "ode_net",
    "point_classifier",
}  # fmt: skip

each_layer = pytest.mark.parametrize("name", LAYERS)


def made(name):
    torch.manual_seed(0)
    make, x = LAYERS[name]
    layer = make().eval()
    return lambda x: joined(layer(x)), x, layer


def joined(output):
    """A sample per row."""
    return torch.cat([leaf.flatten(1) for leaf in output], 1) if isinstance(output, tuple) else output.flatten(1)


def test_all_that_is_offered_is_tried():
    tried = {name.partition(" ")[0].strip(",") for name in LAYERS} | set(METHODS) | OWN_TEST
    offered = set(deqzoo.nn.__all__) | set(deqzoo.models.__all__)
    assert offered == tried | NO_SOLVER | ODES | set(ODE_LAYERS) | PIPELINE


@each_layer
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_a_bad_sample_is_lost_and_no_other(name, bad):
    layer, x, _ = made(name)
    right = layer(x)
    found = told(lambda: layer(with_bad(x, bad)))
    counts = outcomes(found, with_nan(right))
    show(f"{name}, {bad}", counts)
    assert counts == {"right": 2, "not a number": 1}
    assert found.warned


@each_layer
def test_zeros_and_nothing(name):
    layer, x, _ = made(name)
    counts = outcomes(told(lambda: layer(0 * x)), layer(0 * x[:1]).expand(3, -1))
    show(f"{name}, zeros", counts)
    assert counts == {"right": 3}
    assert layer(x[:0]).shape == (0, layer(x).shape[1])


@each_layer
@pytest.mark.parametrize("steps", [1, 2])
def test_an_exhausted_budget_is_told(name, steps):
    layer, x, module = made(name)
    right = layer(x)
    solver = deqzoo.nn.solver_layers(module)[0].solver
    with use_solver(module, dataclasses.replace(solver, max_steps=steps, tol=1e-7)):
        found = told(lambda: layer(x))
    show(f"{name}, {steps} steps", outcomes(found, right))
    assert found.warned


def test_what_has_no_equilibrium_is_told():
    x = rows(4)
    found = told(lambda: DEQ(lambda z, x: z + x, solver=SHARP)(x))
    show("DEQ, no equilibrium", outcomes(found, torch.full_like(x, NAN)))
    assert found.warned


@pytest.mark.parametrize("gradient", sorted(EQUATION_ADJOINTS))
@pytest.mark.parametrize("bad", [NAN, INF])
def test_the_state_and_gradients_of_a_deq(gradient, bad):
    x, solver = rows(4), Picard(tol=1e-5)
    if gradient == "reversible_iteration":
        solver = Picard(tol=1e-5, damping=0.8, max_steps=30, stop="never")

    def run(x):
        x = x.clone().requires_grad_()
        deq = DEQ(bounded_cell, solver=solver, adjoint=make_adjoint(gradient), on_failure="ignore")
        z = deq(x)
        z.square().sum().backward()
        return z.detach(), x.grad, deq.solution

    right, slope, _ = run(x)
    z, found, solution = run(with_bad(x, bad))
    good = [0, 2]
    torch.testing.assert_close(z[good], right[good])
    torch.testing.assert_close(found[good], slope[good])
    assert solution.status.tolist() == [Status.CONVERGED, Status.DIVERGED, Status.CONVERGED]
    assert torch.isfinite(solution.value).all()
    assert not solution.value.requires_grad
    warm = DEQ(bounded_cell, solver=Picard(tol=1e-5))  # from which the next solve can start
    assert torch.isfinite(warm(x, solution.value)).all()


def test_layers_warn_and_can_be_asked_not_to():
    with pytest.warns(RuntimeWarning):
        DEQ(bounded_cell, solver=Picard(max_steps=1))(rows(4))
    assert not told(lambda: DEQ(bounded_cell, solver=Picard(max_steps=1), on_failure="ignore")(rows(4))).warned


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bad", [NAN, INF])
def test_adaptation_to_a_bad_task(method, bad):
    """Bounded activations: an infinite input gives finite predictions of the start."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 1))
    learner = MetaLearner(network, METHODS[method], mse_loss)
    inputs, targets, queries = rows(5, 2), rows(5, 1), rows(4, 2)
    right = learner(inputs, targets, queries)
    for spoilt in ((with_bad(inputs, bad), targets), (inputs, with_bad(targets, bad))):
        counts = outcomes(told(lambda: learner(*spoilt, queries)), with_nan(right))  # noqa: B023
        show(f"{method}, {bad}", counts)
        assert counts == {"right": 2, "not a number": 1}
    few = MetaLearner(network, dataclasses.replace(METHODS["IMAML"], solver=LBFGS(max_steps=1)), mse_loss)
    assert told(lambda: few(inputs, targets, queries)).warned


@pytest.mark.parametrize("bad", [NAN, INF])
def test_a_graph_is_one_system(bad):
    torch.manual_seed(0)
    network = ImplicitGraphNetwork(3, ["a", "b"], solver=SHARP)
    features, edges = rows(3), torch.tensor([[0, 1], [1, 2]])
    right = network(features, edges)
    counts = outcomes(told(lambda: network(with_bad(features, bad), edges)), torch.full_like(right, NAN))
    assert counts == {"not a number": 3}
    with use_solver(network, Picard(max_steps=1, tol=1e-9)):
        assert told(lambda: network(features, edges)).warned


@pytest.mark.parametrize(("kind", "settings"), [(LanguageModel, {}), (ContractiveLanguageModel, {"features": 4})])
def test_a_language_model_without_the_budget(kind, settings):
    vocabulary = Vocabulary.of("abc", "characters")
    model = kind(vocabulary=vocabulary, window=4, width=8, heads=2, **settings).eval()
    with use_solver(model, Picard(max_steps=1, tol=1e-9)):
        assert told(lambda: model(torch.ones(2, 4, dtype=torch.long))).warned


@pytest.mark.parametrize("bad", [NAN, INF])
def test_weighted_examples_are_one_problem(bad):
    cleaner = DataCleaner(6, features=3, classes=2)
    inputs, labels = torch.rand(6, 3), torch.arange(6) % 2
    found = told(lambda: cleaner.fit(with_bad(inputs, bad), labels).flatten()[None])
    assert found.value.isnan().all()
    assert found.warned
    few = DataCleaner(6, features=3, classes=2, solver=LBFGS(max_steps=1))
    assert told(lambda: few.fit(inputs, labels)).warned


@pytest.mark.parametrize("bad", [NAN, INF])
def test_learned_decays_are_one_problem(bad):
    learner = DecayLearner((1, 8, 8), classes=2, filters=2)
    images, labels = torch.rand(6, 1, 8, 8), torch.arange(6) % 2
    found = told(lambda: learner.fit(with_bad(images, bad), labels).flatten()[None])
    assert found.value.isnan().all()
    assert found.warned
    few = DecayLearner((1, 8, 8), classes=2, filters=2, solver=LBFGS(max_steps=1))
    assert told(lambda: few.fit(images, labels)).warned


@pytest.mark.parametrize("bad", [NAN, INF])
def test_a_mixed_cell_has_one_classifier(bad):
    search = CellSearch((1, 8, 8), classes=2, channels=2)
    images, labels = torch.rand(6, 1, 8, 8), torch.arange(6) % 2
    found = told(lambda: search.fit(with_bad(images, bad), labels).weights.flatten()[None])
    assert found.value.isnan().all()
    assert found.warned
    few = CellSearch((1, 8, 8), classes=2, channels=2, solver=LBFGS(max_steps=1))
    assert told(lambda: few.fit(images, labels).weights).warned


@pytest.mark.parametrize("solver", ODE_SOLVERS)
@pytest.mark.parametrize("name", ODE_LAYERS)
def test_layers_that_solve_differential_equations(name, solver):
    """A bad sample is lost alone, with a warning; so are all without a budget. Zeros and nothing are fine."""

    def layer(**options):
        torch.manual_seed(0)
        return ODE_LAYERS[name](ODE_SOLVERS[solver](**options))

    x = rows(2)
    right = layer()(x).detach()
    for bad in (NAN, INF, -INF):
        found = told(lambda: layer()(with_bad(x, bad)))  # noqa: B023
        counts = outcomes(found, with_nan(right))
        show(f"{name}, {solver}, {bad}", counts)
        assert counts == {"right": 2, "not a number": 1}
        assert found.warned
    assert outcomes(told(lambda: layer()(0 * x)), layer()(0 * x[:1]).expand(3, -1)) == {"right": 3}
    assert layer()(x[:0]).shape == (0, right.shape[1])
    if solver != "RK4":
        found = told(lambda: layer(max_steps=1, rtol=1e-9, atol=1e-9)(x))
        assert found.warned
        assert found.value.isnan().all()
