"""What a model loses when its binding subspace is shuffled: its own objective, classes and objects of patches.

One block's output is changed by a hook and the later blocks compute on: the top subspace of the reference probe,
random subspaces of equal rank, and moves of equal length in random directions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from rich import box
from rich.table import Table
from torch import Tensor, nn

from ocl.binding.ablation import Change, Inject, NormMatched, Shuffle, ablated
from ocl.binding.pairs import sample_patches
from ocl.binding.patches import Patches
from ocl.binding.pointwise import Pointwise
from ocl.binding.probes import FormProbe
from ocl.binding.subspace import random_subspace, top_subspace
from ocl.binding_study.fits import Fitted
from ocl.binding_study.patch_encoders import LayerTokens, PatchEncoder
from ocl.binding_study.patch_store import classes_of, objects_of
from ocl.binding_study.rows import measured
from ocl.binding_study.settings import Sampling
from ocl.objectives.base import ViTObjective
from ocl.objectives.vit import TrainableViT
from ocl.shapes import IGNORE, Batch, images_as_float

MASK_SEED = 0  # of the objective's own draws: the same masks and views whatever is changed
INTACT, SHUFFLE, RANDOM, LENGTH, INJECT = (
    "intact", "shuffle top subspace", "shuffle random subspace", "random move of equal length", "inject object mean",
)  # fmt: skip
Maker = Callable[[torch.Generator], Change | None]
Row = dict[str, Any]
"""model, layer, rank, held, change, amount, measure, value (mean over draws), low, high (least and most), draws."""


@dataclass(frozen=True)
class Ablation:
    """Which changes are tried.

    Args:
        rank: Of the subspace, ours.
        layer: Block whose output is changed; None takes the best one for the reference probe before the last.
        ratios: Shares of the patches of an image whose binding is shuffled.
        amounts: The part a of its own binding that a patch keeps when the object's mean is injected.
        draws: Of permutations, random subspaces and directions.
        images: The first so many test images, in one batch.
    """

    rank: int = 8
    layer: int | None = None
    ratios: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    amounts: tuple[float, ...] = (0.5, 0.0)
    draws: int = 3
    images: int = 128


def ablate(
    model: str,
    encoder: PatchEncoder,
    objective: ViTObjective | None,
    reference: Fitted,
    names: Fitted | None,
    batch: Batch,
    sampling: Sampling,
    ablation: Ablation,
    seed: int = 0,
) -> list[Row]:
    """The rows of one ViT.

    "objective loss" is the model's own, where it is at hand; "class accuracy" that of the pointwise probe `names` on
    the last layer; "same-object AUC" and "same-object accuracy" those of the reference probe there. Both probes were
    fitted on intact tokens.

    Raises:
        ValueError: no blocks of a ViT, a reference without a symmetric form, or no such layer.
    """
    if not can_be_ablated(encoder):
        raise ValueError(f"{model} cannot be ablated: only blocks of a ViT can; leave out `ablation`.")
    assert isinstance(encoder, LayerTokens)
    if not isinstance(reference.probe, FormProbe):
        raise ValueError(f"a {type(reference.probe).__name__} has no form and so no subspace; name another reference.")
    places = list(encoder.places)
    earlier = [place for place in places[:-1] if place.startswith("block")]
    if ablation.layer is None and not earlier:
        raise ValueError("an ablation needs a block before the last one; read more layers.")
    place = f"block {ablation.layer}" if ablation.layer is not None else _best(earlier, places, reference.losses)
    if place not in earlier:
        raise ValueError(f"the layer to ablate must be one of {', '.join(earlier)}, got {place}.")
    layer = int(place.removeprefix("block "))
    top = top_subspace(reference.probe.form()[[places.index(place)]], ablation.rank)
    basis = top.basis[0].cpu()
    objects = objects_of(batch, encoder.grid, sampling.purity, sampling.ignore, sampling.leave_out)
    drawn = sample_patches(objects, sampling.patches, range(len(batch)), seed)  # those of the table
    shown = objects.gather(1, drawn)
    classes = None if sampling.classes is None else classes_of(batch, shown, sampling.classes)
    about = {"model": model, "layer": place, "rank": ablation.rank, "held": float(top.held[0])}
    rows: list[Row] = []
    for change, amount, make, on_objective in _conditions(basis, objects, ablation):
        found: dict[str, list[float]] = {}
        for draw in range(1 if change in (INTACT, INJECT) else ablation.draws):  # nothing in these is drawn
            generator = torch.Generator().manual_seed(1000 * seed + draw)
            applied = make(generator)
            with _changed([encoder.layers.vit], layer, applied), torch.no_grad():
                tokens = encoder(batch).take_along_dim(drawn[None, :, :, None], dim=2)
            figures = _heads(Patches(tokens, shown, classes), reference, names)
            if objective is not None and on_objective:
                figures = {"objective loss": _loss(objective, layer, applied, batch), **figures}
            for name, value in figures.items():
                found.setdefault(name, []).append(value)
        for name, values in found.items():
            mean = sum(values) / len(values)
            spread = {"value": mean, "low": min(values), "high": max(values), "draws": len(values)}
            rows.append(about | {"change": change, "amount": amount, "measure": name} | spread)
    return rows


def can_be_ablated(encoder: PatchEncoder) -> bool:
    """Whether it reads blocks of a ViT, one of them last."""
    return isinstance(encoder, LayerTokens) and encoder.places[-1].startswith("block")


def _conditions(basis: Tensor, objects: Tensor, ablation: Ablation) -> Iterator[tuple[str, float, Maker, bool]]:
    """(change, amount, how to make it, whether the objective can be run with it: injection needs every patch)."""
    yield INTACT, 0.0, lambda generator: None, True
    for ratio in ablation.ratios:

        def shuffle(generator: torch.Generator, ratio: float = ratio) -> Change:
            return Shuffle(basis, ratio, generator)

        def control(generator: torch.Generator, ratio: float = ratio) -> Change:
            return Shuffle(random_subspace(basis.shape[0], basis.shape[1], generator), ratio, generator)

        def equal_length(generator: torch.Generator, ratio: float = ratio) -> Change:
            return NormMatched(Shuffle(basis, ratio, generator), generator)

        yield SHUFFLE, ratio, shuffle, True
        yield RANDOM, ratio, control, True
        yield LENGTH, ratio, equal_length, True
    for amount in ablation.amounts:

        def inject(generator: torch.Generator, amount: float = amount) -> Change:
            return Inject(basis, objects, amount)

        yield INJECT, amount, inject, False


@torch.no_grad()
def _heads(patches: Patches, reference: Fitted, names: Fitted | None) -> dict[str, float]:
    found = measured(lambda part, _: reference.probe(part.tokens)[-1], patches)
    figures = {
        f"same-object {name}": float(found[of].values[found[of].counted].mean())
        for name, of in (("AUC", "auc"), ("accuracy", "accuracy"))
    }
    if names is not None and isinstance(names.probe, Pointwise) and patches.classes is not None:
        answers = names.probe.names(names.probe.read(patches.tokens))[-1].argmax(-1)  # (B n)
        known = patches.classes != IGNORE
        figures["class accuracy"] = float((answers == patches.classes)[known].double().mean())
    return figures


@torch.no_grad()
def _loss(objective: ViTObjective, layer: int, change: Change | None, batch: Batch) -> float:
    vits = [part.vit for part in objective.modules() if isinstance(part, TrainableViT)]  # a teacher and its student
    prepared = Batch(images_as_float(batch.images), batch.segmentation, batch.objects)
    with torch.random.fork_rng(devices=[]), _changed(vits, layer, change):
        torch.manual_seed(MASK_SEED)
        return float(objective(prepared)["loss"])


@contextmanager
def _changed(vits: Sequence[nn.Module], layer: int, change: Change | None) -> Iterator[None]:
    with ExitStack() as stack:
        for vit in vits if change is not None else ():
            stack.enter_context(ablated(vit, layer, change))  # type: ignore[arg-type]
        yield


def _best(earlier: Sequence[str], places: Sequence[str], losses: Tensor) -> str:
    return min(earlier, key=lambda place: float(losses[list(places).index(place)]))


def ablation_table(rows: Sequence[Row]) -> Table:
    """One line per model, change and amount."""
    measures = list(dict.fromkeys(row["measure"] for row in rows))
    caption = (
        "Mean (least to most) over draws. Shuffle: the share of patches permuted. Inject: the share of its own binding "
        "that a patch keeps. Probes were fitted on intact tokens of the last layer."
    )
    title = f"Ablation of the binding subspace, rank {rows[0]['rank']} (share of the probe's squared spectrum in it)"
    drawn = Table(title=title, caption=caption, caption_justify="left", box=box.SIMPLE_HEAD)
    for column in ("model", "change", "amount", *measures):
        drawn.add_column(column, justify="left" if column in ("model", "change") else "right")
    previous = None
    for key in dict.fromkeys((row["model"], row["change"], row["amount"]) for row in rows):
        mine = {row["measure"]: row for row in rows if (row["model"], row["change"], row["amount"]) == key}
        row = next(iter(mine.values()))
        model = f"{row['model']}, {row['layer']} ({row['held']:.0%})"
        cells = [_cell(mine[name]) if name in mine else "-" for name in measures]
        drawn.add_row("" if model == previous else model, key[1], "" if key[1] == INTACT else f"{key[2]:g}", *cells)
        previous = model
    return drawn


def _cell(row: Row) -> str:
    if row["draws"] == 1:
        return f"{row['value']:.4f}"
    return f"{row['value']:.4f} ({row['low']:.4f} to {row['high']:.4f})"
