"""`ocl binding`: which patches of an image a model takes to be one object, layer by layer, beside every control."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from torch.utils.data import Dataset

from ocl.binding.next_attention import NextAttention
from ocl.binding.pairs import sample_patches
from ocl.binding.pointwise import PointwiseClass
from ocl.binding_study.ablations import Ablation, ablate, ablation_table, can_be_ablated
from ocl.binding_study.attentions import attention_rows, attention_table, draw_attention, has_attention
from ocl.binding_study.curves import draw_curves
from ocl.binding_study.differences import difference_rows, differences_table, draw_differences
from ocl.binding_study.maps import draw_maps, first_batch, patch_at, patch_number, similarity_maps
from ocl.binding_study.models import Studied, TimmViT
from ocl.binding_study.patch_encoders import LayerTokens, PatchEncoder
from ocl.binding_study.patch_store import objects_of
from ocl.binding_study.rows import Row
from ocl.binding_study.settings import Fitting, ProbeMaker, Sampling
from ocl.binding_study.study import Study, Subject, file_name, next_blocks
from ocl.binding_study.table import table
from ocl.data.scenes import Item
from ocl.describe import describe_dataset, describe_part
from ocl.files import write_json
from ocl.manifest import write_manifest
from ocl.shapes import IGNORE

WIDTH = 200  # characters, where the output is no terminal


def binding(
    train: Dataset,  # type: ignore[type-arg]  # jsonargparse offers no subclasses of a subscripted class
    test: Dataset,  # type: ignore[type-arg]
    folder: Path,
    models: dict[str, Studied] | None = None,
    model: str | None = None,
    weights: Path | None = None,
    image_size: tuple[int, int] = (224, 224),
    probes: dict[str, ProbeMaker] | None = None,
    reference: str = "quadratic",
    sampling: Sampling = Sampling(),  # noqa: B008  # frozen
    fitting: Fitting = Fitting(),  # noqa: B008
    others: Dataset | None = None,  # type: ignore[type-arg]
    patch: tuple[int, int] | None = None,
    point: tuple[float, float] | None = None,
    pictures: int = 6,
    next_attention: bool = False,
    attention: int = 0,
    identical: Dataset | None = None,  # type: ignore[type-arg]
    ablation: Ablation | None = None,
    batch_size: int = 32,
    seed: int = 0,
    device: str = "cpu",
) -> None:
    """Probe which patches a model takes to be one object, in all layers at once; run again to continue.

    Args:
        train: Images with a segmentation, to fit probes on.
        test: Other images, to measure them on.
        folder: Where tokens, fits, results.json, curves.png, maps and the manifest go.
        models: Name -> what is studied. A random-initialised twin is always beside it.
        model: A timm ViT in the place of `models`, such as vit_tiny_patch16_224.
        weights: A file of its weights; otherwise they come from the local cache or are fetched.
        image_size: What it reads, (H, W), multiples of its patch size.
        probes: Name -> class path of a probe; the usual six where None.
        reference: Which probe is also fitted on permuted tokens, drawn as maps, and whose subspace is ablated.
        sampling: Which patches are compared.
        fitting: How probes are fitted.
        others: The test images with another person's segmentations: human against human, the ceiling.
        patch: (row, column) that the maps show the similarity to; None draws one with an object in every image.
        point: (x, y) in pixels of the test images, in the place of `patch`.
        pictures: Test images in the maps; 0 for none.
        next_attention: Also probe with the queries and keys of the block that reads the tokens next.
        attention: Test images for the correlation of attention with IsSameObject, by layer and head; 0 for none.
        identical: Images with three or more copies of an object on the patch grid, for what tells the copies apart.
        ablation: Shuffle and replace what the reference probe reads, in ViTs; None for none.
        batch_size: Images encoded at once.
        seed: Of the drawn patches, the random twins, the split by image, the fits and the bootstrap.
        device: Of models and probes.

    Raises:
        ValueError: no model; models with other grids; settings that differ from those in the folder.
        FileNotFoundError: weights that are neither at hand nor to be had.
    """
    if model is not None:
        models = {model: TimmViT(model, image_size, weights=None if weights is None else str(weights))}
    if not models:
        raise ValueError("give `models` to study, or one `model`, the name of a timm ViT.")
    if min(pictures, attention) < 0:
        raise ValueError(f"pictures and attention are numbers of images, got {pictures} and {attention}.")
    start = time.monotonic()
    study = Study(
        train,
        test,
        models,
        folder,
        sampling,
        fitting,
        probes,
        reference,
        others,
        next_attention,
        batch_size,
        seed,
        device,
    )
    encoders = study.encoders()
    query = _query(study, next(iter(encoders.values())), patch, point)
    if ablation is not None and not any(can_be_ablated(encoders[name]) for name in models):
        raise ValueError("only blocks of a ViT can be ablated, and no model here is one; leave out `ablation`.")
    _check_sections([encoders[name] for name in models], next_attention, attention)
    subjects = study.subjects(encoders)
    rows = study.rows(subjects)
    attending = _attending(study, subjects, attention)
    differing = _differing(study, subjects, identical)
    write_json(folder / "results.json", [*rows, *attending, *differing])
    draw_curves(rows, folder / "curves.png")
    if pictures:
        for subject in subjects:
            _draw(study, subject, query, pictures)
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    console.print(table(rows))
    if attending:
        console.print(attention_table(attending))
    if differing:
        console.print(differences_table(differing))
    if ablation is not None:
        able = [subject for subject in subjects if subject.name in models and can_be_ablated(subject.encoder)]
        changed = [row for subject in able for row in _ablated(study, subject, ablation)]
        write_json(folder / "ablation.json", changed)
        console.print(ablation_table(changed))
    config = {
        "models": {
            name: {"class": type(encoder).__name__, "fingerprint": encoder.fingerprint}
            for name, encoder in encoders.items()
        },
        "train": describe_dataset(train),
        "test": describe_dataset(test),
        "sampling": describe_part(sampling),
        "fitting": describe_part(fitting),
        "reference": reference,
        "identical": None if identical is None else describe_dataset(identical),
    }
    write_manifest(folder, config=config, seed=seed, minutes=(time.monotonic() - start) / 60)
    console.print(f"all layers: {folder / 'results.json'}, curves: {folder / 'curves.png'}, maps: {folder / 'maps'}")


def _draw(study: Study, subject: Subject, query: int | None, pictures: int) -> None:
    batch, grid, sampling = first_batch(study.test, pictures, study.device), subject.encoder.grid, study.sampling
    labels = objects_of(batch, grid, sampling.purity, sampling.ignore, sampling.leave_out)
    queries = sample_patches(labels, 1, range(len(batch)), study.seed)[:, 0]
    if query is not None:
        queries = torch.full_like(queries, query)
    fit = subject.probes[study.reference]
    maps = similarity_maps(subject.encoder, fit.probe, batch, queries)
    known = labels.unflatten(1, grid) != IGNORE
    path = study.folder / "maps" / f"{file_name(subject.name)}.png"
    draw_maps(batch, queries, maps, known, subject.encoder.places, fit.best, path)


def _ablated(study: Study, subject: Subject, ablation: Ablation) -> list[Row]:
    objective = study.models[subject.name].objective()
    return ablate(
        subject.name,
        subject.encoder,
        None if objective is None else objective.to(study.device),
        subject.probes[study.reference],
        next((fit for fit in subject.probes.values() if isinstance(fit.probe, PointwiseClass)), None),
        first_batch(study.test, ablation.images, study.device),
        study.sampling,
        ablation,
        study.seed,
    )


def _query(
    study: Study, encoder: PatchEncoder, patch: Sequence[int] | None, point: Sequence[float] | None
) -> int | None:
    """The patch that all maps show the similarity to; None where every image has its own."""
    if patch is not None and point is not None:
        raise ValueError("give the `patch` of the maps as (row, column) or their `point` as (x, y), not both.")
    if point is not None:
        return patch_at(point, first_batch(study.test, 1).images.shape[-2:], encoder.grid)
    return None if patch is None else patch_number(patch, encoder.grid)


def _check_sections(encoders: Sequence[PatchEncoder], next_attention: bool, attention: int) -> None:
    """Raises ValueError where a section cannot be had, before anything is computed for it."""
    if next_attention:
        followed = [blocks for encoder in encoders if (blocks := next_blocks(encoder))]
        if not followed:
            raise ValueError("no model here is a ViT with a block after those that are read; leave out next_attention.")
        for blocks in followed:
            NextAttention(list(blocks.values()))
    if attention:
        readable = [has_attention(encoder) for encoder in encoders]  # all of them, and the first may raise
        if not any(readable):
            raise ValueError("only blocks of a ViT attend, and no model here is one; leave out attention.")


def _attending(study: Study, subjects: Sequence[Subject], images: int) -> list[Row]:
    rows: list[Row] = []
    for subject in subjects if images else ():
        if isinstance(subject.encoder, LayerTokens):
            found = attention_rows(
                subject.name, subject.encoder, study.test, images, study.sampling, device=study.device, seed=study.seed
            )
            rows += found[1:] if rows else found  # the control is the same for all
    if rows:
        draw_attention(rows, study.folder / "attention.png")
    return rows


def _differing(study: Study, subjects: Sequence[Subject], identical: Dataset[Item] | None) -> list[Row]:
    if identical is None:
        return []
    found = [
        difference_rows(subject.name, subject.encoder, identical, study.batch_size, study.device, study.seed)
        for subject in subjects
    ]
    draw_differences([example for _, example in found], study.folder / "differences.png")
    return [row for rows, _ in found for row in rows]
