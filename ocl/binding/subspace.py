"""Where binding lives in the tokens: the directions that a probe compares, differences between identical objects, and
what attention has to do with it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from sklearn.cluster import KMeans
from torch import Tensor

from ocl.metrics.image_mean import PerImage


@dataclass
class Subspace:
    """The r directions that matter most to symmetric forms of L layers.

    basis:       (L D r), orthonormal columns.
    eigenvalues: (L D), by falling absolute value; the first r belong to the basis.
    held:        (L), share of the squared spectrum in the first r.
    """

    basis: Tensor
    eigenvalues: Tensor
    held: Tensor


@torch.no_grad()
def top_subspace(form: Tensor, rank: int) -> Subspace:
    """Eigenvectors of the largest absolute eigenvalues of symmetric forms (L D D), as `FormProbe.form` gives them.

    A negative eigenvalue says "different" where its direction agrees and counts as much as a positive one.
    """
    size = form.shape[-1]
    if form.ndim != 3 or form.shape[1] != size or not 1 <= rank <= size:
        raise ValueError(f"form must be (L, D, D) and the rank 1 to D, got {tuple(form.shape)} and {rank}.")
    if not torch.allclose(form, form.mT, rtol=1e-4, atol=1e-6 * float(form.abs().max())):
        raise ValueError("form must be symmetric; give what `FormProbe.form` returns.")
    values, vectors = torch.linalg.eigh(form.double())
    order = values.abs().argsort(dim=-1, descending=True)
    values = values.take_along_dim(order, -1)
    basis = vectors.take_along_dim(order[:, None, :rank], -1)
    energy = values.square()
    held = energy[:, :rank].sum(-1) / energy.sum(-1).clamp(min=torch.finfo(torch.float64).tiny)
    return Subspace(basis.to(form.dtype), values.to(form.dtype), held.to(form.dtype))


def random_subspace(dim: int, rank: int, generator: torch.Generator | None = None) -> Tensor:
    """(D r) orthonormal, uniform among all subspaces of this rank: the control of every ablation.

    Raises:
        ValueError: a rank outside 1..D.
    """
    if not 1 <= rank <= dim:
        raise ValueError(f"a subspace of {dim} dimensions has a rank of 1 to {dim}, got {rank}.")
    basis: Tensor = torch.linalg.qr(torch.randn(dim, rank, generator=generator)).Q
    return basis


@dataclass
class Differences:
    """Principal components of the differences between identical objects.

    explained:   (k) share of the variance that each component holds.
    projections: (O - 1, m, k), each difference in the components.
    clusters:    (O - 1, m) int64, the k-means cluster of each.
    purity:      share of differences whose k-means cluster is mostly of their own object; 1 / (O - 1) at least, 1 where
                 objects are told apart by one vector each.
    """

    explained: Tensor
    projections: Tensor
    clusters: Tensor
    purity: float


@torch.no_grad()
def identical_differences(tokens: Tensor, components: int = 3, seed: int = 0) -> Differences:
    """What differs between copies of one object on the patch grid, patch by patch.

    Tokens are taken as f(content) + b(object) + noise. Copies have the same content in the same patch, so tokens_o -
    tokens_0 leaves b_o - b_0, which is one point per object, whatever the patch shows.

    Args:
        tokens: (O m D): O identical objects, m patches each in the same order; the first is subtracted.
        components: k.
        seed: of k-means, which is run on the k components with O - 1 clusters.

    Raises:
        ValueError: fewer than three objects, or more components than differences or dimensions.
    """
    if tokens.ndim != 3 or tokens.shape[0] < 3:
        raise ValueError(f"tokens must be (O, m, D) of at least 3 objects, got {tuple(tokens.shape)}.")
    deltas = (tokens[1:] - tokens[0]).double()  # (O-1 m D)
    rows = deltas.flatten(0, 1)
    if not 1 <= components <= min(rows.shape):
        raise ValueError(f"{tuple(rows.shape)} differences have 1 to {min(rows.shape)} components, got {components}.")
    _, singular, directions = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)
    energy = singular.square()
    projections = (rows - rows.mean(0)) @ directions[:components].mT
    groups = len(deltas)
    found = KMeans(groups, n_init=10, random_state=seed).fit_predict(projections.cpu().numpy())
    clusters = torch.from_numpy(found).long()
    truth = torch.arange(groups).repeat_interleave(deltas.shape[1])
    return Differences(
        (energy / energy.sum().clamp(min=torch.finfo(torch.float64).tiny))[:components],
        projections.unflatten(0, deltas.shape[:2]),
        clusters.unflatten(0, deltas.shape[:2]),
        purity(clusters, truth),
    )


def purity(clusters: Tensor, labels: Tensor) -> float:
    """Share of items (n) whose label is the most frequent one of their cluster."""
    table = torch.zeros(int(clusters.max()) + 1, int(labels.max()) + 1)
    table.index_put_((clusters, labels), torch.ones(len(labels)), accumulate=True)
    return float(table.amax(1).sum() / len(labels))


def attention_correlation(attention: Tensor, target: Tensor, counted: Tensor) -> PerImage:
    """Pearson's r between attention weights and IsSameObject over the pairs of each image, both orders of a pair.

    Undefined where either side is constant.

    Args:
        attention: (... B heads n n) of any layers, patches only (no prefix tokens).
        target: (B n n) bool same-object targets, or (... B n n) float logits of a probe.
        counted: (B n n) bool.

    Returns:
        (... B heads).
    """
    weights = attention.double()
    goal, use = target.double().unsqueeze(-3), counted.double().unsqueeze(-3)
    count = use.sum((-1, -2), keepdim=True).clamp(min=1)
    weights = (weights - (weights * use).sum((-1, -2), keepdim=True) / count) * use
    goal = (goal - (goal * use).sum((-1, -2), keepdim=True) / count) * use
    spread = weights.square().sum((-1, -2)) * goal.square().sum((-1, -2))
    defined = spread > 1e-30
    correlation = (weights * goal).sum((-1, -2)) / spread.sqrt().clamp(min=1e-15)
    return PerImage(correlation.masked_fill(~defined, 0), defined)
