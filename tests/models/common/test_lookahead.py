"""Lookahead against its recursion written out."""

import torch
from torch import nn

from deqzoo.models.common.lookahead import Lookahead


def run(steps, total, resume_at=None):
    p = nn.Parameter(torch.tensor([1.0, -2.0]))
    lookahead = Lookahead([p], every=3, decay=0.9)
    for step in range(1, steps + 1):
        with torch.no_grad():
            p += step
        lookahead.update(step, total)
        if step == resume_at:
            state = {"average": [average.clone() for average in lookahead.state_dict()["average"]]}
            lookahead = Lookahead([p], every=3, decay=0.9)
            lookahead.load_state_dict(state)
    return p.detach()


def test_the_weights_return_to_their_average_and_end_there():
    p, average = torch.tensor([1.0, -2.0]), torch.tensor([1.0, -2.0])
    for step in range(1, 9):
        p = p + step
        if step in (3, 6, 8):
            d = 0.9**3 * (step / 8) ** 3
            p = average = d * average + (1 - d) * p
    torch.testing.assert_close(run(8, 8), p)


def test_it_can_be_taken_up_again():
    assert torch.equal(run(8, 8), run(8, 8, resume_at=4))
