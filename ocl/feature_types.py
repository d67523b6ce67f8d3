"""Features that hold more than tokens; whatever reads tokens alone takes them as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ocl.shapes import Features


class _Late(Features):
    """Features of which one field is computed when it is first read: not everyone who makes slots needs it."""

    def __init__(self, grid: tuple[int, int], field: str, compute: Callable[[], Tensor]) -> None:
        self.grid = grid
        self._late = (field, compute)

    def __getattr__(self, name: str) -> Any:  # called for what is not there yet
        late = self.__dict__.get("_late")
        if late is None or name != late[0]:
            raise AttributeError(name)
        value = late[1]()
        setattr(self, name, value)
        return value


class TunedFeatures(_Late):
    """Tokens of two encoders: a frozen one's are to be predicted, slots are made of those of one that is trained.

    tokens: (B N F) of the frozen encoder, without gradient; computed when first read.
    tuned:  (B N F), what the grouping reads.
    """

    def __init__(self, tuned: Tensor, tokens: Callable[[], Tensor], grid: tuple[int, int]) -> None:
        super().__init__(grid, "tokens", tokens)
        self.tuned = tuned


class CodedFeatures(_Late):
    """Tokens that stand for entries of a vocabulary.

    tokens:  (B N F), the embeddings of `codes` with their positions.
    codes:   (B N) int64, which entry each token is.
    painted: (B 3 H W), what the autoencoder behind the vocabulary makes of the image; computed when first read.
    """

    def __init__(self, tokens: Tensor, codes: Tensor, painted: Callable[[], Tensor], grid: tuple[int, int]) -> None:
        super().__init__(grid, "painted", painted)
        self.tokens, self.codes = tokens, codes


def grouping_tokens(features: Features) -> Tensor:
    """(B N F): what the grouping reads of them, before any projection."""
    return features.tuned if isinstance(features, TunedFeatures) else features.tokens
