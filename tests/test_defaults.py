"""The defaults: those of a layer and of recipes agree, and the table in docs/solvers.md has them."""

import pytest
import torch

from deqzoo.implicit import CG, GMRES, LBFGS, Anderson, Discrete, Implicit, Newton, Tsit5
from deqzoo.implicit.linear_solvers.base import default_tolerance
from deqzoo.models.common import options
from deqzoo.models.equilibrium.config import (
    ContractiveClassifierConfig,
    DEQClassifierConfig,
    MDEQClassifierConfig,
    MonDEQClassifierConfig,
)
from deqzoo.models.flow.config import FlowConfig
from deqzoo.models.graph.config import ImplicitGraphConfig
from deqzoo.models.language.config import LanguageModelConfig
from deqzoo.models.ode.config import LatentODEConfig, ODEClassifierConfig, ODEPointClassifierConfig
from deqzoo.nn import DEQ, FlowODE, MonDEQ, NeuralODE

from .running import ROOT

EQUILIBRIA = [
    ContractiveClassifierConfig,
    DEQClassifierConfig,
    ImplicitGraphConfig,
    LanguageModelConfig,
    MDEQClassifierConfig,
]
ODES = [LatentODEConfig, ODEClassifierConfig, ODEPointClassifierConfig]


@pytest.mark.parametrize("config", EQUILIBRIA)
def test_a_recipe_that_says_nothing_has_the_defaults_of_deq(config):
    deq = DEQ(torch.nn.Identity())
    assert options.fixed_point_solver(config()) == deq.solver == DEQ.default_solver
    assert options.fixed_point_adjoint(config()) == deq.adjoint == Implicit()


def test_a_recipe_of_a_mondeq_has_the_defaults_of_mondeq():
    assert options.monotone_solver(MonDEQClassifierConfig()) == MonDEQ.default_solver
    assert options.fixed_point_adjoint(MonDEQClassifierConfig()) == Implicit()


@pytest.mark.parametrize(("config", "layer"), [*((config, NeuralODE) for config in ODES), (FlowConfig, FlowODE)])
def test_a_recipe_of_an_ode_has_the_defaults_of_its_layer(config, layer):
    assert options.ode_solver(config(), layer) == layer.default_solver
    assert options.ode_adjoint(config()) == Discrete()


def test_what_a_recipe_says_goes_before_the_defaults():
    settings = DEQClassifierConfig(solver="broyden", solver_options={"tol": 1e-2})
    assert (options.fixed_point_solver(settings).tol, options.fixed_point_solver(settings).max_steps) == (1e-2, 30)
    settings = ODEClassifierConfig(solver="rk4", solver_options={"step_size": 0.1})
    assert options.ode_solver(settings).step_size == 0.1


def test_the_table_of_the_documentation():
    precise = " in ".join([f"{default_tolerance(torch.float32):.0e}", "float32, "])
    precise += " in ".join([f"{default_tolerance(torch.float64):.0e}", "float64"])
    rows = [
        ("`fixed_point`", Anderson(), Implicit(GMRES())),
        ("`root`", Newton(), Implicit(GMRES())),
        ("`argmin`", LBFGS(), Implicit(CG())),
        ("`odeint`", Tsit5(), Discrete()),
        ("`DEQ`, and recipes", DEQ.default_solver, Implicit(GMRES())),
        ("`MonDEQ`, and recipes", MonDEQ.default_solver, Implicit(GMRES())),
        ("`NeuralODE`, and recipes", NeuralODE.default_solver, Discrete()),
        ("`ContinuousFlow`, and recipes", FlowODE.default_solver, Discrete()),
    ]
    text = (ROOT / "docs" / "solvers.md").read_text()
    for name, solver, adjoint in rows:
        if isinstance(solver, Tsit5):
            stop, how = f"rtol {solver.rtol:.0e}, atol {solver.atol:.0e}", "Discrete()"
        else:
            stop = precise if solver.tol is None else f"{solver.tol:.0e}"
            how = f"Implicit({type(adjoint.linear_solver).__name__}())"
        stop = stop.replace("e-0", "e-")
        row = f"| {name} | `{type(solver).__name__}` | {stop} | {solver.max_steps} steps | `{how}` |"
        assert row in text, row
