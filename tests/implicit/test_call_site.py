"""A warning points at the user's line, and is given once per line, as Python's own filters would have it."""

import subprocess
import sys
import textwrap
import warnings

import pytest
import torch
from torch import nn

from deqzoo.implicit import NonConvergenceWarning, Picard, argmin, fixed_point, root
from deqzoo.implicit.call_site import warn_once
from deqzoo.models import DEQClassifier
from deqzoo.nn import DEQ


def fails(z):
    return -z + torch.rand(()) + 1  # the message differs from call to call


def solve(count=1):
    for _ in range(count):
        fixed_point(fails, torch.zeros(2), solver=Picard(max_steps=3))


def recorded(action, *functions):
    """The warnings that the functions give under a filter."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter(action)
        for function in functions:
            function()
    return seen


@pytest.mark.parametrize(("action", "told"), [("default", 1), ("once", 1), ("module", 1), ("always", 5), ("ignore", 0)])
def test_the_filters_decide(action, told):
    assert len(recorded(action, lambda: solve(5))) == told


def test_as_errors_each_is_raised():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            with pytest.raises(NonConvergenceWarning):
                solve()


def test_each_line_is_told_of():
    def two_lines():
        solve(3)
        fixed_point(fails, torch.zeros(2), solver=Picard(max_steps=3))

    lines = [warning.lineno for warning in recorded("default", two_lines, two_lines)]
    assert len(lines) == len(set(lines)) == 2


def test_other_things_on_one_line_are_told_of():
    def two():
        for what in "aab":
            warn_once(f"{what} failed", RuntimeWarning, what)

    assert [str(warning.message) for warning in recorded("default", two)] == ["a failed", "b failed"]


def test_new_filters_start_anew():
    assert len(recorded("default", lambda: solve(2))) == 1
    assert len(recorded("default", lambda: solve(2))) == 1
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        solve(2)
        warnings.simplefilter("always")
        solve(2)
    assert len(seen) == 3


def test_filters_by_message_and_module():
    def filtered(**options):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            warnings.filterwarnings("ignore", **options)
            solve(2)
        return len(seen)

    assert filtered(message="fixed point") == 0
    assert filtered(module=__name__.replace(".", r"\.")) == 0
    assert filtered(module="deqzoo") == 2


def test_what_is_kept_does_not_grow_with_the_calls():
    from deqzoo.implicit import call_site

    recorded("default", lambda: solve(50))
    assert max(map(len, call_site._registries.values())) == 2


class Wrapped(nn.Module):
    """The user's own module around one of ours."""

    def __init__(self):
        super().__init__()
        self.deq = DEQ(lambda z, x: -z + x, solver=Picard(max_steps=3))

    def forward(self, x):
        return nn.Sequential(self.deq, nn.Identity())(x)


CALLS = {
    "fixed_point": lambda: fixed_point(fails, torch.zeros(2), solver=Picard(max_steps=3)),
    "root": lambda: root(lambda y: y**2 + 1, torch.zeros(2)),
    "argmin": lambda: argmin(lambda y: y.sum(), torch.zeros(2)),
    "DEQ": lambda: DEQ(lambda z, x: -z + x, solver=Picard(max_steps=3))(torch.ones(2, 2)),
    "a model of ours": lambda: DEQClassifier(
        classes=["a"],
        mean=[0.5],
        std=[0.5],
        in_channels=1,
        widths=[8],
        entry_groups=4,
        solver=Picard(max_steps=1, tol=0.0),
    )(torch.rand(1, 1, 8, 8)),
    "a module of the user": lambda: Wrapped()(torch.ones(2, 2)),
}


@pytest.mark.parametrize("call", CALLS)
def test_the_line_is_the_users(call):
    (first, *_) = recorded("always", CALLS[call])
    assert first.filename == __file__
    assert first.category is NonConvergenceWarning


def test_an_adjoint_solve_is_told_of_at_the_line_of_the_backward():
    x = torch.zeros(2, requires_grad=True)
    z = fixed_point(lambda z, x: z + 0 * x, torch.ones(2), x)
    with pytest.warns(NonConvergenceWarning, match="adjoint solve") as seen:
        z.sum().backward()
    assert seen[0].filename == __file__


def test_by_default_python_shows_one_line_per_line():
    """In a process of its own, with the filters that Python starts with."""
    code = """
        import torch, deqzoo
        from deqzoo.implicit import Picard
        for _ in range(4):
            deqzoo.fixed_point(lambda z: -z + torch.rand(()), torch.zeros(2), solver=Picard(max_steps=3))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert done.stderr.count("NonConvergenceWarning") == 1
