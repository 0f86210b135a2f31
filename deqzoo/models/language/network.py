"""Language models: embedding, equilibrium of a causal cell, logits of the next token."""

from __future__ import annotations

from torch import Tensor, nn

from deqzoo.data.vocabulary import Vocabulary
from deqzoo.implicit import EquationAdjoint, FixedPointSolver
from deqzoo.models.language.next_token import NextTokenModel
from deqzoo.nn.contractive_attention import AttentionInjection, ContractiveAttentionCell
from deqzoo.nn.deq import DEQ
from deqzoo.nn.transformer import TransformerCell


class LanguageModel(NextTokenModel):
    """Predicts each next token of a sequence from those before it.

    x = embedding(tokens), z* = cell(z*, x), logits = head(z*): a sequence is one system, whose equilibrium is causal as
    the cell is. With ``layers`` it is the explicit baseline instead, a usual transformer: that number of cells with
    weights of their own, z <- cell(z, z) from x on.

    Args:
        vocabulary: the tokens.
        window: the most tokens that `generate` looks back on: those of a window in training.
        width, heads, expansion, dropout: of the cells, see `TransformerCell`.
        layers: explicit layers in place of the equilibrium; 0: none.
        tied: the head's weights are those of the embedding.
        solver, adjoint: of the equilibrium layer, see `DEQ`.

    >>> model = LanguageModel(vocabulary=Vocabulary.of("to be", "characters"), window=8, width=8, heads=2)
    >>> model(model.vocabulary.encode("to ")[None]).shape, len(model.generate("to", length=3))
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
        adjoint: EquationAdjoint | None = None,
    ) -> None:
        if layers < 0:
            raise ValueError(f"layers must not be negative, got {layers}")
        super().__init__(vocabulary, window)
        self.embedding = nn.Embedding(len(vocabulary), width)
        self.injection = nn.Linear(width, width, bias=False)
        cells = [TransformerCell(width, heads, expansion, dropout) for _ in range(max(layers, 1))]
        self.deq = None if layers else DEQ(cells[0], solver=solver, adjoint=adjoint)
        self.layers = nn.ModuleList(cells if layers else [])
        self.head = nn.Linear(width, len(vocabulary), bias=False)
        if tied:
            self.head.weight = self.embedding.weight
        nn.init.normal_(self.head.weight, std=0.02)

    def inject(self, tokens: Tensor) -> Tensor:
        """The cell's input x for tokens (B, T): (B, T, width)."""
        return self.injection(self.embedding(self.checked(tokens)))

    def forward(self, tokens: Tensor, start: Tensor | None = None) -> Tensor:
        """As `NextTokenModel.forward`."""
        x = self.inject(tokens)
        if self.deq is not None:
            return self.head(self.equilibrium(x, start))
        z = x
        for layer in self.layers:
            z = layer(z, z)
        return self.head(z)


class ContractiveLanguageModel(NextTokenModel):
    """Predicts each next token of a sequence by an equilibrium that, for rho_max < 1, is sure to exist and be unique.

    x = injection(embedding(tokens)), z* = cell(z*, x), logits = head(norm(z*)), with an `AttentionInjection` and a
    `ContractiveAttentionCell`.

    Args:
        vocabulary: the tokens.
        window: the most tokens of a sequence: those of a window in training.
        width, heads, rho_max, rho: of the cell.
        features: channels of the embedding.
        size, context: of the injection.
        solver, adjoint: of the equilibrium layer, see `DEQ`.

    >>> vocabulary = Vocabulary.of("to be", "characters")
    >>> model = ContractiveLanguageModel(vocabulary=vocabulary, window=8, width=8, heads=2, features=4)
    >>> model(vocabulary.encode("to ")[None]).shape, len(model.generate("to", length=3)), model.eval().deq.certified
    (torch.Size([1, 3, 6]), 5, True)
    """

    def __init__(
        self,
        *,
        vocabulary: Vocabulary,
        window: int,
        width: int,
        heads: int,
        features: int,
        size: int = 16,
        context: int = 4,
        rho_max: float = 0.9,
        rho: float = 0.7,
        solver: FixedPointSolver | None = None,
        adjoint: EquationAdjoint | None = None,
    ) -> None:
        super().__init__(vocabulary, window)
        self.embedding = nn.Embedding(len(vocabulary), features)
        self.injection = AttentionInjection(features, width, heads, window=window, size=size, context=context)
        cell = ContractiveAttentionCell(width, heads, rho_max=rho_max, rho=rho)
        self.deq = DEQ(cell, solver=solver, adjoint=adjoint)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, len(vocabulary), bias=False)
        nn.init.normal_(self.head.weight, std=0.02)

    def forward(self, tokens: Tensor, start: Tensor | None = None) -> Tensor:
        """As `NextTokenModel.forward`."""
        return self.head(self.norm(self.equilibrium(self.injection(self.embedding(self.checked(tokens))), start)))
