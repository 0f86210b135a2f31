"""Training of language models: the cross-entropy of each next token, told in bits per character of the text."""

from typing import Any

import torch
from torch import Tensor, nn

from deqzoo.models.common.deq_module import DEQModule
from deqzoo.models.common.module import Batch, Step
from deqzoo.models.language.bits import bits_per_char, perplexity, totals
from deqzoo.models.language.network import LanguageModel


class LanguageModelModule(DEQModule):
    """Trains a `LanguageModel` by cross-entropy (nats per token); logs ``bits_per_char``, in tests ``perplexity``."""

    def __init__(self, network: LanguageModel, **options: Any) -> None:
        super().__init__(network, **options)
        self.characters: Tensor
        self.register_buffer("characters", torch.tensor(network.vocabulary.characters), persistent=False)
        self._totals: list[Tensor] = []  # of each test batch

    def step(self, network: nn.Module, batch: Batch, stage: str) -> Step:
        """Cross-entropy of the targets that are scored."""
        tokens, targets = batch
        sums = totals(network(tokens), targets, self.characters)
        if stage == "test":
            self._totals.append(sums.detach().double())
        metrics = {} if stage == "test" else {"bits_per_char": bits_per_char(sums.detach())}
        # All targets of a training batch are scored; to count them the host would wait for the device.
        count = targets.numel() if stage == "train" else int(sums[1])
        return Step(sums[0] / sums[1], metrics, tokens, count)

    def on_test_epoch_end(self) -> None:
        """Log the numbers of the whole test part."""
        super().on_test_epoch_end()
        own = torch.stack([torch.zeros(3, dtype=torch.float64, device=self.device), *self._totals]).sum(0)
        self._totals.clear()
        sums = self.sum_over_processes(own)  # the mean of the processes' ratios would be another number
        for name, value in {"bits_per_char": bits_per_char(sums), "perplexity": perplexity(sums)}.items():
            self.log(f"test/{name}", value.float(), sync_dist=True)  # the same everywhere
