"""Language models: embedding, equilibrium of a causal transformer cell, logits of the next token; and their samples."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..implicit import FixedPointSolver, Gradient
from .deq import DEQ
from .transformer import TransformerCell
from .vocabulary import Vocabulary


class LanguageModel(nn.Module):
    """Predicts each next token of a sequence from those before it.

    x = embedding(tokens), z* = cell(z*, x), logits = head(z*): a sequence is one system, whose equilibrium is causal as
    the cell is. With ``layers`` it is the explicit twin instead, a usual transformer: so many cells with weights of
    their own, z <- cell(z, z) from x on.

    Args:
        vocabulary: the tokens.
        window: the most tokens that `generate` looks back on: those of a window in training.
        width, heads, expansion, dropout: of the cells, see `TransformerCell`.
        layers: explicit layers in place of the equilibrium; 0: none.
        tied: the head's weights are those of the embedding.
        solver, gradient: of the equilibrium layer, see `DEQ`.

    >>> model = LanguageModel(vocabulary=Vocabulary.of("to be", "characters"), window=8, width=8, heads=2)
    >>> model(torch.tensor([[1, 2, 3]])).shape, len(model.generate("to", length=3))
    (torch.Size([1, 3, 6]), 5)
    """

    def __init__(
        self,
        *,
        vocabulary: Vocabulary,
        window: int,
        width: int,
        heads: int,
        expansion: float = 4.0,
        dropout: float = 0.0,
        layers: int = 0,
        tied: bool = False,
        solver: FixedPointSolver | None = None,
        gradient: Gradient | None = None,
    ) -> None:
        super().__init__()
        if layers < 0:
            raise ValueError(f"layers must not be negative, got {layers}")
        self.vocabulary, self.window = vocabulary, window
        self.embedding = nn.Embedding(len(vocabulary), width)
        self.injection = nn.Linear(width, width, bias=False)
        cells = [TransformerCell(width, heads, expansion, dropout) for _ in range(max(layers, 1))]
        self.deq = None if layers else DEQ(cells[0], solver=solver, gradient=gradient)
        self.layers = nn.ModuleList(cells if layers else [])
        self.head = nn.Linear(width, len(vocabulary), bias=False)
        if tied:
            self.head.weight = self.embedding.weight
        nn.init.normal_(self.head.weight, std=0.02)

    @property
    def equilibria(self) -> list[DEQ]:
        """The equilibrium layer, if it has one."""
        return [] if self.deq is None else [self.deq]

    def inject(self, tokens: Tensor) -> Tensor:
        """The cell's input x for tokens (B, T): (B, T, width)."""
        return self.injection(self.embedding(tokens))

    def forward(self, tokens: Tensor, start: Tensor | None = None) -> Tensor:
        """Logits of each next token, (B, T, vocabulary).

        Args:
            tokens: (B, T) int64.
            start: (B, S, width), S <= T: near the equilibrium of the first S positions; the solve starts there.
        """
        x = self.inject(tokens)
        if self.deq is not None:
            return self.head(self.deq(x, None if start is None else torch.cat([start, x[:, start.shape[1] :]], 1)))
        z = x
        for layer in self.layers:
            z = layer(z, z)
        return self.head(z)

    @torch.no_grad()
    def generate(
        self,
        prompt: str,
        length: int,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        seed: int = 0,
        warm_start: bool = True,
    ) -> str:
        """The prompt and ``length`` tokens drawn to follow it, one after the other.

        It looks back on ``window`` tokens. The equilibrium does not change where the text does not, as it is causal:
        with ``warm_start`` a solve starts from that of the text so far, and ends sooner, as the stop rule looks at all
        positions together. A tighter ``tol`` (see `deqzoo.load`) makes the last one as exact as from a cold start.

        Args:
            prompt: at least one token, all of the vocabulary.
            length: tokens to draw.
            temperature: divides the logits; 0: always the likeliest token.
            top_k: draw from so many likeliest tokens; None: from all.
            seed: of the draws; the same seed gives the same text.
            warm_start: whether solves start from the last one.

        Raises:
            ValueError: a prompt with unknown tokens or none, or an option that cannot be.
        """
        tokens = self._checked(prompt, length, temperature, top_k)
        random = torch.Generator().manual_seed(seed)
        start: Tensor | None = None
        training = self.training
        self.eval()  # without dropout: the text follows from the seed
        try:
            for _ in range(length):
                window = tokens[None, -self.window :].to(self.embedding.weight.device)
                logits = self(window, start)[0, -1]
                if warm_start and self.deq is not None and self.deq.solution is not None:
                    z = self.deq.solution.value
                    start = z[:, 1:] if z.shape[1] == self.window else z  # the first token leaves a full window
                drawn = _draw(logits.double().cpu(), temperature, top_k, random)
                tokens = torch.cat([tokens, drawn])
        finally:
            self.train(training)
        return self.vocabulary.decode(tokens.tolist())

    def _checked(self, prompt: str, length: int, temperature: float, top_k: int | None) -> Tensor:
        """The tokens of a prompt, after a look at all that `generate` was given."""
        if unknown := self.vocabulary.unknown(prompt):
            known = ", ".join(map(repr, self.vocabulary.tokens[1:101]))
            listed = ", ".join(map(repr, unknown[:8]))
            raise ValueError(
                f"the prompt has {self.vocabulary.unit} that the model does not know: {listed}; it knows {known}"
            )
        tokens = self.vocabulary.encode(prompt)
        if not len(tokens):
            raise ValueError("the prompt is empty; give at least one token, such as a newline")
        if length < 0 or not 0 <= temperature < math.inf:
            raise ValueError(f"length and temperature must be finite and not negative, got {length} and {temperature}")
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}")
        return tokens


def _draw(logits: Tensor, temperature: float, top_k: int | None, random: torch.Generator) -> Tensor:
    """One token, (1,), never the unknown one, which is the first."""
    logits[0] = -torch.inf
    if temperature == 0:
        return logits.argmax(keepdim=True)
    if top_k is not None and top_k < len(logits):
        logits[logits < logits.topk(top_k).values[-1]] = -torch.inf
    # Shifted first: a tiny temperature may take logits, but not their differences from the largest, past infinity.
    return torch.multinomial(((logits - logits.max()) / temperature).softmax(0), 1, generator=random)
