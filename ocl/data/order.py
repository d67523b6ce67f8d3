"""The order in which training reads a data set: a function of (seed, epoch), so any batch can be found again."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


class EpochBatches(Sampler[list[int]]):
    """Shuffled batches of one epoch, readable from any batch on.

    Runs of `run` consecutive indices stay together: 1 shuffles single items, a procedural data set's block length
    shuffles whole blocks (each is then drawn once). With `world` processes, process `rank` reads every world-th batch.
    An incomplete last batch is dropped: the next epoch's order is another.
    """

    def __init__(self, size: int, batch_size: int, seed: int = 0, run: int = 1, rank: int = 0, world: int = 1) -> None:
        if batch_size < 1 or size < batch_size * world:
            raise ValueError(
                f"A training set of {size} items does not fill one batch of {batch_size} on each of {world} "
                "process(es); choose a smaller batch size (at least 1) or a larger set."
            )
        self.size, self.batch_size, self.seed, self.run = size, batch_size, seed, run
        self.rank, self.world = rank, world
        self.epoch, self.start = 0, 0

    def begin(self, epoch: int, start: int = 0) -> None:
        """Let the next iteration be that of `epoch`, without its first `start` batches."""
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        """Batches in a whole epoch, whatever `start`."""
        return self.size // (self.batch_size * self.world)

    def __iter__(self) -> Iterator[list[int]]:
        generator = np.random.default_rng(np.random.SeedSequence([self.seed, self.epoch]))
        runs = generator.permutation(-(-self.size // self.run))
        order = (runs[:, None] * self.run + np.arange(self.run)).reshape(-1)
        order = order[order < self.size]
        for batch in range(self.start, len(self)):
            first = (batch * self.world + self.rank) * self.batch_size
            yield order[first : first + self.batch_size].tolist()
