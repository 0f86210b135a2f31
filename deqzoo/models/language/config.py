"""What the recipes of language models may say; imports no torch."""

from dataclasses import dataclass, field

from deqzoo.models.common.config import FixedPointConfig, FixedPointTraining


@dataclass
class LanguageModelConfig(FixedPointConfig, FixedPointTraining):
    """A language model of an equilibrium, or its explicit baseline, and its training.

    It is a `deqzoo.models.ContractiveLanguageModel` or, of cell "transformer", a `deqzoo.models.LanguageModel`.
    """

    kind: str = "language_model"
    # The network.
    cell: str = "transformer"  # or contractive
    width: int = 128  # channels
    heads: int = 4  # of the attention
    # With a contractive cell.
    features: int = 64  # channels of the embedding
    context: int = 4  # tokens by which a position attends: itself and those before
    size: int = 16  # of queries and keys
    rho_max: float = 0.9  # bound of the cell's Lipschitz constant
    rho: float = 0.7  # with which it starts
    # With a transformer cell.
    expansion: float = 4.0  # inner channels of a cell over its width
    dropout: float = 0.0
    layers: int = 0  # explicit layers in place of the equilibrium; 0: none
    tied: bool = False  # the head's weights are those of the embedding
    # Beside it.
    baselines: list[str] = field(default_factory=list)  # trained entries for the same data, to compare with in the card
