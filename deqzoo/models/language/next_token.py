"""What predicts the next token of a text, and draws texts of its own."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from deqzoo.data.vocabulary import Vocabulary
from deqzoo.models.common.head import HeadedNetwork
from deqzoo.nn.deq import DEQ
from deqzoo.nn.tensors import check_tensor


class NextTokenModel(HeadedNetwork):
    """A network of tokens (B, T) to logits of each next one, (B, T, vocabulary): a subclass says how.

    Args:
        vocabulary: the tokens.
        window: the most tokens that `generate` looks back on: those of a window in training.

    Attributes:
        deq: its equilibrium layer; None: it has none.
    """

    deq: DEQ | None

    def __init__(self, vocabulary: Vocabulary, window: int) -> None:
        super().__init__()
        self.vocabulary, self.window, self.deq = vocabulary, window, None

    @property
    def equilibria(self) -> list[DEQ]:
        """The equilibrium layer, if it has one."""
        return [] if self.deq is None else [self.deq]

    def forward(self, tokens: Tensor, start: Tensor | None = None) -> Tensor:
        """Logits of each next token, (B, T, vocabulary).

        Args:
            tokens: (B, T) int64.
            start: (B, S, width), S <= T: near the equilibrium of the first S positions; the solve starts there.
        """
        raise TypeError(f"{type(self).__name__} does not define forward()")

    def checked(self, tokens: Tensor) -> Tensor:
        """The tokens, if they are (B, T) integers; else a `ValueError` names the mend."""
        check_tensor("tokens", tokens)
        if tokens.dim() != 2 or tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
            what = f"got {tokens.dtype} {tuple(tokens.shape)}: vocabulary.encode(text).unsqueeze(0) makes them"
            raise ValueError(f"tokens are int64 (B, T), {what}")
        return tokens

    def equilibrium(self, x: object, start: Tensor | None) -> Tensor:
        """The equilibrium layer's output for its input x, from a ``start`` as `forward` takes it."""
        assert self.deq is not None
        if start is None:
            return self.deq(x)
        return self.deq(x, torch.cat([start, self.deq.initial_state(x)[:, start.shape[1] :]], 1))

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
            top_k: number of likeliest tokens to draw from; None: all.
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
                window = tokens[None, -self.window :].to(next(self.parameters()).device)
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
