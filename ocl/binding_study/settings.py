"""What a study asks for: which patches are compared, how probes are fitted, and which probes there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from ocl.binding.pointwise import PointwiseClass
from ocl.binding.probes import Cosine, Diagonal, Linear, LowRank, PairProbe, Quadratic

ProbeMaker = Callable[..., PairProbe]
"""(D, layers=L) -> a fresh probe."""


@dataclass(frozen=True)
class Sampling:
    """Which patches of an image are compared; see `extract_patches`.

    Args:
        patches: Drawn per image, those with a known object first.
        purity: Least share of a patch that its object must cover.
        ignore: Labels that count as unknown in every image, such as 0 for background.
        leave_out: Attributes (bool) of objects that count as unknown, such as stuff and crowds.
        classes: Attribute that holds the class of each object; None where there are no classes.
    """

    patches: int = 64
    purity: float = 0.0
    ignore: tuple[int, ...] = ()
    leave_out: tuple[str, ...] = ()
    classes: str | None = None


@dataclass(frozen=True)
class Fitting:
    """How probes are fitted; see `ocl.binding.fitting.fit`.

    Args:
        epochs: At most.
        lr: Of Adam. Published: 0.001, with batches of 256 of about 20,000 images.
        batch: Images per step.
        decay_every: Epochs between drops of the rate; None for none.
        decay: Factor of a drop.
        patience: Epochs without an improvement in any layer after which fitting stops; None for never.
        standardise: Take off the mean and divide by the deviation of the training tokens; published code does not.
        held_out: Share of the training images that decides when to stop and which layer is best.
    """

    epochs: int = 16
    lr: float = 1e-3
    batch: int = 32
    decay_every: int | None = 8
    decay: float = 0.2
    patience: int | None = 4
    standardise: bool = True
    held_out: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out is a share of the training images between 0 and 1, got {self.held_out}.")


def usual_probes(names: int | None) -> Mapping[str, ProbeMaker]:
    """The probes of a table. names: how many classes there are, None for no pointwise probe."""
    probes: dict[str, ProbeMaker] = {
        "linear": Linear,
        "diagonal": Diagonal,
        "quadratic": Quadratic,
        "low rank": partial(LowRank, rank=16),
        "cosine": Cosine,
    }
    return probes if names is None else {**probes, "class": partial(PointwiseClass, names=names)}
