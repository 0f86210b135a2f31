"""Random draws within a solve: made once and handed over, by whatever means a cell draws."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from deqzoo.implicit import Euler, Implicit, Neumann, Picard, Tsit5
from deqzoo.nn import DEQ, NeuralODE
from deqzoo.nn.randomness import same_randomness
from tests.nn.layers import F64, SHARP, Dense2

CPU = torch.device("cpu")
SIZE = 4, 5, 6


@pytest.fixture
def generator_use(monkeypatch):
    """How often the CPU's generator has been read and set."""
    use = {"read": 0, "set": 0}
    get, put = torch.get_rng_state, torch.set_rng_state

    def read():
        use["read"] += 1
        return get()

    def write(state):
        use["set"] += 1
        put(state)

    monkeypatch.setattr(torch, "get_rng_state", read)
    monkeypatch.setattr(torch, "set_rng_state", write)
    return use


def in_place(x):
    return F.dropout(x.clone(), 0.5, True, True)


def filled(fill):
    return lambda x: fill(torch.empty_like(x))


HANDED = {
    "dropout": lambda x: F.dropout(x, 0.5),
    "in place": in_place,
    "channels": lambda x: F.dropout1d(x, p=0.5, training=True),
    "rand": lambda x: torch.rand(SIZE, dtype=F64),
    "randn_like": torch.randn_like,
    "randint": lambda x: torch.randint(0, 9, SIZE),
    "randperm": lambda x: torch.randperm(6),
    "changed": lambda x: torch.rand_like(x).mul_(2).add_(x),
    "normal_": filled(lambda t: t.normal_(1.0, std=2.0)),
    "uniform_": filled(lambda t: t.uniform_(-1, 1)),
    "bernoulli_": filled(lambda t: t.bernoulli_(0.3)),
    "two": lambda x: F.dropout(torch.rand_like(x) * x, 0.3),
    "within vjp": lambda x: torch.func.vjp(lambda y: F.dropout(y, 0.5) * torch.rand_like(y), x)[1](x)[0],
}
SET_BACK = {
    "bernoulli": lambda x: torch.bernoulli(x.sigmoid()),
    "bernoulli_ of a tensor": filled(lambda t: t.bernoulli_(torch.full_like(t, 0.3))),
    "alpha dropout": lambda x: F.alpha_dropout(x, 0.5, True),
    "attention": lambda x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.5),
    "both": lambda x: F.dropout(F.alpha_dropout(x, 0.5, True), 0.5),
    "within vmap": lambda x: torch.vmap(lambda y: F.dropout(y, 0.5), randomness="different")(x),
}


@pytest.mark.parametrize("name", HANDED | SET_BACK)
def test_all_calls_draw_as_the_first_and_move_the_generator_once(name, generator_use):
    """The reference is one call after the same seed."""
    f = (HANDED | SET_BACK)[name]
    x = torch.rand(SIZE, dtype=F64)
    torch.manual_seed(3)
    expected, after = f(x), torch.rand(())
    torch.manual_seed(3)
    call = same_randomness(f, f, CPU)
    for _ in range(3):
        torch.testing.assert_close(call(x), expected, rtol=1e-14, atol=0)
    assert torch.equal(torch.rand(()), after)
    assert (generator_use["set"] == 0) == (name in HANDED)
    if name in HANDED:
        read = generator_use["read"]
        call(x)
        assert generator_use["read"] == read


def test_a_generator_of_ones_own_is_handed_over_too():
    generator = torch.Generator().manual_seed(1)
    call = same_randomness(lambda x: torch.rand(3, generator=generator), None, CPU)
    assert torch.equal(call(None), call(None))


def test_where_nothing_is_drawn_the_calls_are_plain():
    modes = []

    def f(x):
        modes.append(len(torch.overrides._get_current_function_mode_stack()))
        return x + F.dropout(x, 0.5, training=False) + F.dropout(x, 0.0)

    call = same_randomness(f, f, CPU)
    for _ in range(3):
        call(torch.ones(2))
    assert modes == [1, 0, 0]


def test_another_shape_and_further_draws_are_errors():
    call = same_randomness(lambda x: F.dropout(x, 0.5), None, CPU)
    call(torch.ones(4))
    with pytest.raises(RuntimeError, match=r"draws by dropout, of shape \(3,\), .* drew by dropout, of shape \(4,\)"):
        call(torch.ones(3))
    call = same_randomness(lambda n: torch.rand(n), None, CPU)
    call(4)
    with pytest.raises(RuntimeError, match=r"draws by rand, of shape \(1,\)"):
        call(1)
    times = iter([1, 2])
    call = same_randomness(lambda x: sum(torch.rand_like(x) for _ in range(next(times))), None, CPU)
    call(torch.ones(2))
    with pytest.raises(RuntimeError, match="draws more random numbers than the first"):
        call(torch.ones(2))


def checkpointed(z):
    return checkpoint(lambda y: F.dropout(y.tanh(), 0.5), z, use_reentrant=False)


def checkpointed_layer(z):
    return checkpoint(DEQ(lambda z, x: F.dropout(0.5 * z.tanh() + x, 0.5), **SHARP), z, use_reentrant=False)


def own_generator(z):
    own = torch.Generator().manual_seed(1)
    return F.dropout(z.tanh(), 0.5) * torch.bernoulli(torch.full_like(z, 0.5), generator=own)


BUFFER = torch.empty(3, 5, dtype=F64)


def into_a_buffer(z):
    torch.rand(3, 5, out=BUFFER)
    return z.tanh() * BUFFER.mul_(0.5).clone()


PARTS = {
    "checkpoint": checkpointed,
    "checkpoint of a layer": checkpointed_layer,
    "a draw under no_grad": lambda z: z.tanh() * torch.no_grad()(torch.rand_like)(z),
    "dropout beside layers that draw nothing": lambda z: F.alpha_dropout(F.dropout(z.tanh(), 0.5), 0.5, training=False),
    "a generator of its own": own_generator,
    "into a buffer": into_a_buffer,
}


@pytest.mark.parametrize("name", PARTS)
def test_the_gradient_is_that_of_the_first_draws(name):
    """Central differences, after the same seed; of parts that are evaluated again in the backward, too."""
    part = PARTS[name]
    layers = [DEQ(lambda z, x: 0.3 * part(z) + x, solver=Picard(tol=1e-13, max_steps=500), on_failure="raise")]
    if name != "checkpoint of a layer":
        layers.append(NeuralODE(lambda t, y: part(y) - y, solver=Tsit5(rtol=1e-10, atol=1e-10)))
    x, along = torch.randn(2, 3, 5, dtype=F64).unbind()
    for layer in layers:

        def value(x, layer=layer):
            torch.manual_seed(5)
            return layer(x).square().sum()

        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(value(leaf), leaf)
        with torch.no_grad():
            difference = (value(x + 1e-6 * along) - value(x - 1e-6 * along)) / 2e-6
        torch.testing.assert_close((gradient * along).sum(), difference, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("randomness", ["same", "different"])
def test_the_gradient_of_a_vmapped_layer_is_that_of_its_masks(randomness):
    deq = DEQ(lambda z, x: 0.3 * F.dropout(z.tanh(), 0.5) + x, solver=Picard(tol=1e-14, max_steps=500, stop="abs"))
    x, along = torch.randn(2, 4, 3, 5, dtype=F64).unbind()

    def value(x):
        torch.manual_seed(5)
        return torch.vmap(deq, randomness=randomness)(x).square().sum()

    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(leaf), leaf)
    difference = (value(x + 1e-6 * along) - value(x - 1e-6 * along)) / 2e-6
    torch.testing.assert_close((gradient * along).sum(), difference, rtol=1e-6, atol=1e-8)


class Attending(Dense2):
    """Its dropout lies within an attention layer, where no mask can be had."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(5, 1, dropout=0.5, batch_first=True, dtype=F64)

    def forward(self, z, x):
        z = z.unsqueeze(1).expand(-1, 3, -1)
        return super().forward(0.2 * self.attention(z, z, z, need_weights=False)[0].sum(1), x)


class Prepared(Dense2):
    """The injection is computed once."""

    def prepare(self, x):
        return self.injection(x)

    def forward(self, z, x, injection):
        return torch.tanh(self.dropout(self.to_state(z)) + injection)


@pytest.mark.parametrize(
    "cell", [Dense2(dropout=0.5), Attending(), Prepared(dropout=0.5)], ids=lambda c: type(c).__name__
)
def test_a_layer_converges_and_its_gradient_is_that_of_its_masks(cell):
    """Central differences, after the same seed."""
    deq = DEQ(cell, solver=Picard(tol=1e-13, max_steps=500), on_failure="raise")
    x = torch.randn(3, 5, dtype=F64, requires_grad=True)

    def value(x):
        torch.manual_seed(5)
        return deq(x).square().sum()

    (gradient,) = torch.autograd.grad(value(x), x)
    along = torch.randn(3, 5, dtype=F64)
    with torch.no_grad():
        difference = (value(x + 1e-6 * along) - value(x - 1e-6 * along)) / 2e-6
    torch.testing.assert_close((gradient * along).sum(), difference, rtol=1e-7, atol=1e-9)


def test_masks_are_drawn_once_however_many_steps_a_solve_takes(generator_use):
    x = torch.randn(4, 5, dtype=F64)
    reads = set()
    for tol in (1e-2, 1e-10):
        generator_use["read"] = 0
        deq = DEQ(Dense2(dropout=0.5), solver=Picard(tol=tol), on_failure="ignore")
        deq(x).sum().backward()
        reads.add(generator_use["read"])
    assert generator_use["set"] == 0
    assert len(reads) == 1


class Field(nn.Module):
    """-y/2 through a mask."""

    def forward(self, t, y):
        return -0.5 * F.dropout(y, 0.5)


def test_a_compiled_ode_of_fixed_steps_that_drops_out_is_one_graph():
    ode, y = NeuralODE(Field(), solver=Euler(step_size=0.25)), torch.ones(6, 3, dtype=F64)
    torch.manual_seed(0)
    expected = ode(y)
    assert set(expected.flatten().tolist()) == {1.0, 0.75**4}  # by one mask: dropped out throughout, or in no step
    torch.manual_seed(0)
    assert torch.equal(torch.compile(ode, backend="aot_eager", fullgraph=True)(y), expected)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_compiled_layer_of_fixed_steps_that_drops_out_is_one_graph_with_one_mask(backend):
    """Central differences, after the same seed, of which inductor draws other numbers than torch."""
    torch._dynamo.reset()
    deq = DEQ(Dense2(dropout=0.5), solver=Picard(stop="never", max_steps=60), adjoint=Implicit(Neumann(k=60)))
    compiled = torch.compile(deq, backend=backend, fullgraph=True)
    x = torch.randn(3, 5, dtype=F64, requires_grad=True)

    def value(x):
        torch.manual_seed(5)
        return compiled(x).square().sum()

    (gradient,) = torch.autograd.grad(value(x), x)
    assert deq.solution.converged.all()
    along = torch.randn(3, 5, dtype=F64)
    both = [value((x + step * along).detach().requires_grad_()).item() for step in (1e-6, -1e-6)]
    assert (gradient * along).sum().item() == pytest.approx((both[0] - both[1]) / 2e-6, rel=1e-6)


UNSEEN = {
    "bernoulli": lambda z: z * torch.bernoulli(z.sigmoid()),
    "its method": lambda z: z * z.sigmoid().bernoulli(),
    "bernoulli_": lambda z: z * torch.empty_like(z).bernoulli_(z.detach().sigmoid()),
    "rrelu": lambda z: F.rrelu(z, training=True),
    "cauchy_": lambda z: z + torch.empty_like(z).cauchy_(),
    "operator": lambda z: torch.ops.aten.dropout(z, 0.5, True),
    "attention": lambda z: F.scaled_dot_product_attention(z[None], z[None], z[None], dropout_p=0.5)[0],
}


class Drawing(Dense2):
    def __init__(self, draw):
        super().__init__()
        self.draw = draw

    def forward(self, z, x):
        return super().forward(self.draw(z), x)


@pytest.mark.parametrize("name", UNSEEN)
def test_a_draw_that_cannot_be_handed_over_is_an_error_where_it_is_compiled(name):
    torch._dynamo.reset()
    deq = DEQ(Drawing(UNSEEN[name]), solver=Picard(stop="never", max_steps=3), adjoint=Implicit(Neumann(k=3)))
    with pytest.raises(Exception, match="draws cannot be handed over"):
        torch.compile(deq, backend="aot_eager", fullgraph=True)(torch.randn(2, 5, dtype=F64))


@pytest.mark.parametrize(
    "draw", [UNSEEN["bernoulli"], UNSEEN["rrelu"], F.dropout], ids=["bernoulli", "rrelu", "dropout"]
)
def test_compiled_code_around_a_solve_that_stops_by_itself_draws_once(draw):
    torch._dynamo.reset()
    deq = DEQ(lambda z, x: 0.3 * draw(z.tanh()) + x, solver=Picard(tol=1e-12), on_failure="raise")
    torch.compile(deq, backend="aot_eager")(torch.randn(3, 5, dtype=F64))
    assert deq.solution.converged.all()
