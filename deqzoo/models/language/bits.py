"""How well a language model predicts a text: bits per character and perplexity, from sums over batches."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from deqzoo.data.info import IGNORED


def totals(logits: Tensor, targets: Tensor, characters: Tensor) -> Tensor:
    """Cross-entropy in nats, tokens, and their characters, summed over a batch: (3,), with a graph.

    Args:
        logits: (B, T, vocabulary).
        targets: (B, T); `IGNORED` ones are left out.
        characters: of each token of the vocabulary.
    """
    scored = targets != IGNORED
    nats = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")
    return torch.stack([nats, scored.sum(), characters[targets.where(scored, 0)].where(scored, 0).sum()])


def bits_per_char(totals: Tensor) -> Tensor:
    """The bits that a model needs for a character of the text, from `totals` or a sum of them.

    >>> bits_per_char(torch.tensor([math.log(2) * 12, 4, 6]))
    tensor(2.)
    """
    return totals[0] / totals[2] / math.log(2)


def perplexity(totals: Tensor) -> Tensor:
    """exp of the mean cross-entropy of a token, from `totals` or a sum of them."""
    return (totals[0] / totals[1]).exp()
