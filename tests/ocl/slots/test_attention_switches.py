"""Every switch of Slot Attention against a plain float64 transcription of the published equations, in their order."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ocl.losses.points import PointLoss
from ocl.shapes import Batch, Decoded, Features, Hints, Output, Slots
from ocl.slots.attention import SlotAttention
from ocl.slots.competition import Competition, Rules
from ocl.slots.point_guidance import PointGuidance
from ocl.slots.refining import AttentionRefiningKernel

GRID, COUNT, DIM, WIDTH = (5, 7), 4, 16, 12

Make = Callable[[], SlotAttention]


def make(**switches: Any) -> Make:
    """Kernels and point guidance are built at the call, from their own arguments, and away from their start."""

    def built() -> SlotAttention:
        torch.manual_seed(1)
        parts = dict(switches)
        if "kernel" in parts:
            parts["kernel"] = AttentionRefiningKernel(**parts["kernel"])
            torch.nn.init.uniform_(parts["kernel"].weight, 0.01, 0.1)
        if "points" in parts:
            parts["points"] = PointGuidance(DIM, **parts["points"])
        return SlotAttention(DIM, WIDTH, **parts)

    return built


SWITCHES: dict[str, Make] = {
    "plain": make(),
    "epsilon in the denominator": make(epsilon=1.0, epsilon_in="denominator"),
    "large epsilon in the numerator": make(epsilon=0.1),
    "temperature": make(temperature=2.0),
    "heads": make(heads=4),
    "heads compete": make(heads=4, compete_across_heads=True),
    "heads compete, epsilon below": make(heads=2, compete_across_heads=True, epsilon=0.1, epsilon_in="denominator"),
    "points": make(points={}),
    "points matched anew": make(points={"rematch": True}),
    "heads and points": make(heads=2, points={}, temperature=0.5),
}
for normalisation, border in itertools.product(("softmax", "linear", "free"), ("zero", "reflect", "normalised")):
    if border != "normalised" or normalisation == "softmax":
        kernel = {"normalisation": normalisation, "border": border}
        SWITCHES[f"kernel, {normalisation}, {border}"] = make(kernel=kernel)
SWITCHES["kernel of 3, heads"] = make(kernel={"size": 3}, heads=4)
SWITCHES["kernel, heads compete"] = make(kernel={"border": "reflect"}, heads=2, compete_across_heads=True)
SWITCHES["kernel and points"] = make(kernel={}, points={})
SWITCHES |= {
    f"{mode}, {name}": make(gradient=mode, iterations=4, **switches)
    for mode in ("implicit", "bilevel")
    for name, switches in {"kernel": {"kernel": {}}, "points": {"points": {}}, "heads": {"heads": 4}}.items()
}


def smoothed(kernel: AttentionRefiningKernel, maps: Tensor) -> Tensor:
    """maps (... h w): the sum over offsets u of w(u) l(x + u), one pixel and one offset at a time."""
    weight, pad = kernel.weight, kernel.size // 2
    if kernel.normalisation == "softmax":
        raised = (weight / weight.square().sum().sqrt()).exp()
        weight = raised / raised.sum()
    elif kernel.normalisation == "linear":
        weight = weight / weight.sum()
    height, width = maps.shape[-2:]
    rows = []
    for y, x in itertools.product(range(height), range(width)):
        total, inside = torch.zeros_like(maps[..., 0, 0]), torch.zeros_like(weight[0, 0])
        for dy, dx in itertools.product(range(-pad, pad + 1), repeat=2):
            v, u, w = y + dy, x + dx, weight[dy + pad, dx + pad]
            if kernel.border == "reflect":
                v, u = (abs(p) if p < size else 2 * size - 2 - p for p, size in ((v, height), (u, width)))
            if 0 <= v < height and 0 <= u < width:
                total, inside = total + w * maps[..., v, u], inside + w
        rows.append(total / inside if kernel.border == "normalised" else total)
    return torch.stack(rows, dim=-1).unflatten(-1, (height, width))


def brute_match(points: Tensor, hints: Hints, valid: Tensor) -> Tensor:
    """(B K): the known column of each slot, by trying every assignment."""
    match = torch.full(points.shape[:2], -1)
    for i in range(len(points)):
        slots, columns = valid[i].nonzero()[:, 0].tolist(), hints.known[i].nonzero()[:, 0].tolist()
        distance = torch.cdist(points[i].detach(), hints.places[i].to(points.dtype)).tolist()
        some, others = (slots, columns) if len(slots) < len(columns) else (columns, slots)
        best: tuple[float, list[tuple[int, int]]] = (math.inf, [])
        for pick in itertools.permutations(others, len(some)):
            pairs = list(zip(some, pick, strict=True))
            pairs = pairs if some is slots else [(slot, column) for column, slot in pairs]
            best = min(best, (sum(distance[slot][column] for slot, column in pairs), pairs))
        for slot, column in best[1]:
            match[i, slot] = column
    return match


def transcription(
    module: SlotAttention, features: Features, slots: Tensor, hints: Hints | None = None, valid: Tensor | None = None
) -> Slots:
    """Keys and values for every token, logits as maps, torch's own GRU cell; nothing folded, nothing deferred."""
    batch, count, dim = slots.shape
    heads, grid = module.heads, features.grid
    if valid is None:
        valid = torch.ones(batch, count, dtype=torch.bool)
    normed = module.norm_tokens(features.tokens)
    keys, values = (layer(normed).unflatten(-1, (heads, -1)) for layer in (module.key, module.value))  # (B N H d)
    points, matches, start = [], [], slots
    for step in range(module.iterations):
        if module.gradient != "full":  # all that came before the last iteration is a constant
            slots, points = slots.detach(), [point.detach() for point in points]
            if module.gradient == "bilevel" and step == module.iterations - 1:
                slots = slots + start - start.detach()
        queries = module.query(module.norm_slots(slots)).unflatten(-1, (heads, -1)) / math.sqrt(dim // heads)
        logits = torch.einsum("bkhd,bnhd->bhkn", queries, keys).unflatten(-1, grid)
        if module.kernel is not None:
            logits = smoothed(module.kernel, logits)
        raised = (logits.flatten(3) / module.temperature).exp() * valid[:, None, :, None]
        attention = raised / raised.sum(dim=(1, 2) if module.compete_across_heads else 2, keepdim=True)
        if module.epsilon_in == "numerator":
            weights = (attention + module.epsilon) / (attention + module.epsilon).sum(dim=-1, keepdim=True)
        else:
            weights = attention / (attention.sum(dim=-1, keepdim=True) + module.epsilon)
        updates = torch.einsum("bhkn,bnhd->bkhd", weights, values).reshape(-1, dim)
        slots = module.gru(updates, slots.reshape(-1, dim)).view(batch, count, dim)
        if module.points is not None:
            guided = module.points.predictor(module.points.norm(slots)).sigmoid() - 0.5
            points.append(guided + 0.5)
            if hints is not None and module.training:
                anew = module.points.rematch or not matches
                matches.append(brute_match(points[-1], hints, valid) if anew else matches[0])
                rows = [
                    [hints.places[i, column] - 0.5 if column >= 0 else guided[i, k] for k, column in enumerate(row)]
                    for i, row in enumerate(matches[-1].tolist())
                ]
                guided = torch.stack([torch.stack(row) for row in rows])
            slots = slots + module.points.encoder(guided)
        slots = slots + module.mlp(module.norm_mlp(slots))
    masks = attention.sum(dim=1) if module.compete_across_heads else attention.mean(dim=1)
    notes = {"points": points, "point_match": matches}
    return Slots(slots, masks.unflatten(-1, grid), valid, {n: torch.stack(v, 1) for n, v in notes.items() if v})


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Features, Tensor, Hints, Tensor]:
    """Tokens and starts that ask for gradients, points of two of three images, one slot that is padding."""
    torch.manual_seed(2)
    tokens = torch.randn(3, GRID[0] * GRID[1], WIDTH, dtype=torch.float64).to(dtype).requires_grad_()
    starts = torch.randn(3, COUNT, DIM, dtype=torch.float64).to(dtype).requires_grad_()
    places = torch.rand(3, 5, 2, dtype=torch.float64).to(dtype)
    known = torch.tensor([[True, False, True, False, False], [False] * 5, [True] * 5])
    valid = torch.tensor([[True] * 4, [True, False, True, True], [True, True, False, True]])
    return Features(tokens, GRID), starts, Hints(places, known), valid


def scalar(slots: Slots) -> Tensor:
    """Everything that may carry a gradient, each with its own fixed cotangent."""
    generator = torch.Generator().manual_seed(3)
    assert slots.masks is not None
    parts = [slots.vectors, slots.masks, *(note for note in slots.notes.values() if note.is_floating_point())]
    weights = [torch.randn(part.shape, dtype=torch.float64, generator=generator).to(part.dtype) for part in parts]
    return torch.stack([(part * weight).sum() for part, weight in zip(parts, weights, strict=True)]).sum()


def leaves(module: SlotAttention, features: Features, starts: Tensor) -> dict[str, Tensor]:
    return {"tokens": features.tokens, "starts": starts, **dict(module.named_parameters())}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", SWITCHES)
def test_equals_the_transcription_forward_and_gradients(name: str, masked: bool) -> None:
    """To 1e-8 in float64; to 1e-5 in float32, of the largest entry where gradients exceed one."""
    module = SWITCHES[name]().double()
    features, starts, hints, valid = inputs()
    expected = transcription(module, features, starts, hints, valid if masked else None)
    wanted = torch.autograd.grad(
        scalar(expected), list(leaves(module, features, starts).values()), allow_unused=True, materialize_grads=True
    )
    for dtype, tolerance in ((torch.float64, 1e-8), (torch.float32, 1e-5)):
        ours = copy.deepcopy(module).to(dtype)
        features, starts, hints, valid = inputs(dtype)
        found = ours(features, starts, hints=hints, valid=valid if masked else None)
        inside = leaves(ours, features, starts)
        gradients = torch.autograd.grad(scalar(found), list(inside.values()), allow_unused=True, materialize_grads=True)
        torch.testing.assert_close(found.vectors.double(), expected.vectors, rtol=0, atol=tolerance)
        torch.testing.assert_close(found.masks.double(), expected.masks, rtol=0, atol=tolerance)
        assert found.notes.keys() == expected.notes.keys()
        for note in found.notes:
            torch.testing.assert_close(
                found.notes[note].double(), expected.notes[note].double(), rtol=0, atol=tolerance
            )
        for part, one, other in zip(inside, gradients, wanted, strict=True):
            largest = max(1.0, float(other.abs().max()))
            assert (one.double() - other).abs().max() < tolerance * largest, f"gradient of {part}, {dtype}"


def test_switches_change_what_is_computed() -> None:
    """No two are the same function; one that did nothing in both would pass the comparison above."""
    features, starts, hints, _ = inputs()
    names = [name for name in SWITCHES if not name.startswith(("implicit", "bilevel"))]
    vectors = [SWITCHES[name]().double()(features, starts, hints=hints).vectors for name in names]
    for (one, a), (other, b) in itertools.combinations(zip(names, vectors, strict=True), 2):
        same = {one, other} == {"points", "points matched anew"}  # may well agree
        assert same or (a - b).abs().max() > 1e-4, (one, other)


def test_heads_that_do_not_compete_are_separate_attentions() -> None:
    """Masks sum to one over slots; with two heads of equal weights each head sees what one head of that width sees."""
    module = SWITCHES["heads"]()
    features, starts, _, _ = inputs(torch.float32)
    for name in ("heads", "heads compete"):
        masks = SWITCHES[name]()(features, starts).masks
        assert masks is not None
        torch.testing.assert_close(masks.sum(dim=1), torch.ones(3, *GRID))
    with pytest.raises(ValueError, match="multiple of heads"):
        SlotAttention(16, heads=3)
    assert module.state_dict().keys() == SlotAttention(DIM, WIDTH).state_dict().keys()


@pytest.mark.parametrize("name", ["plain", "heads", "heads compete", "kernel, softmax, zero", "points"])
def test_slots_that_are_not_valid_might_as_well_not_exist(name: str) -> None:
    module = SWITCHES[name]().double().eval()
    features, starts, _, _ = inputs()
    keep = torch.tensor([0, 2, 3])
    valid = torch.tensor([True, False, True, True]).expand(3, 4)
    padded, fewer = module(features, starts, valid=valid), module(features, starts[:, keep])
    torch.testing.assert_close(padded.vectors[:, keep], fewer.vectors)
    torch.testing.assert_close(padded.masks[:, keep], fewer.masks)
    assert padded.masks[:, 1].abs().max() == 0
    assert torch.isfinite(padded.vectors).all()
    assert torch.equal(padded.valid, valid)
    changed = starts.detach().clone()
    changed[:, 1] = 100.0
    torch.testing.assert_close(module(features, changed, valid=valid).vectors[:, keep], fewer.vectors)


@pytest.mark.parametrize("name", ["plain", "kernel and points", "heads", "implicit, kernel", "bilevel, points"])
def test_a_training_step_compiles_whole_and_agrees(name: str) -> None:
    """Slots, point loss and gradients, labels included; AOTAutograd traces the backward pass too."""
    torch._dynamo.reset()
    module = SWITCHES[name]()
    features, starts, hints, _ = inputs(torch.float32)

    def step(tokens: Tensor, starts: Tensor, places: Tensor, known: Tensor) -> Tensor:
        slots = module(Features(tokens, GRID), starts, hints=Hints(places, known))
        loss = slots.vectors.square().mean() + slots.masks.square().sum()
        if module.points is not None:
            batch = Batch(tokens, objects={"points": places, "point_known": known})
            decoded = Decoded(tokens, slots.masks)
            output = Output(Features(tokens, GRID), Features(tokens, GRID), starts, slots, decoded)
            loss = loss + PointLoss()(output, batch)
        return loss

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    arguments = (features.tokens, starts, hints.places, hints.known)
    inside = list(leaves(module, features, starts).values())
    results = []
    for run in (step, compiled):
        loss = run(*arguments)
        results.append([loss, *torch.autograd.grad(loss, inside, allow_unused=True, materialize_grads=True)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def saved_bytes(module: SlotAttention, iterations: int) -> int:
    """Bytes that autograd keeps for the backward pass, every storage counted once."""
    features, starts, hints, _ = inputs(torch.float32)
    storages: dict[int, int] = {}
    kept = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)  # so that no address is given out twice
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        module(features, starts, iterations=iterations, hints=hints)
    return sum(storages.values())


@pytest.mark.parametrize("switches", [{}, {"kernel": {}}, {"points": {}}], ids=["plain", "kernel", "points"])
def test_truncated_gradients_keep_nothing_of_earlier_iterations(switches: dict[str, Any]) -> None:
    full = make(**switches)()
    assert saved_bytes(full, 15) > 3 * saved_bytes(full, 3)
    for gradient in ("implicit", "bilevel"):
        module = make(gradient=gradient, **switches)()
        assert saved_bytes(module, 15) == saved_bytes(module, 3)
        assert saved_bytes(module, 3) < 0.7 * saved_bytes(full, 3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["plain", "kernel and points", "heads compete", "kernel, softmax, normalised"])
def test_half_precision_on_the_cpu(name: str, dtype: torch.dtype) -> None:
    """Weights and tokens in halves: finite, and as close to float32 as halves can be."""
    exact = SWITCHES[name]()
    module = copy.deepcopy(exact).to(dtype)
    features, starts, hints, _ = inputs(dtype)
    slots = module(features, starts, hints=hints)
    assert slots.vectors.dtype == dtype
    assert slots.masks.dtype == torch.float32
    (slots.vectors.float().square().sum() + slots.masks.square().sum()).backward()
    for part, value in leaves(module, features, starts).items():
        assert value.grad is not None, part
        assert torch.isfinite(value.grad).all(), part
    full = exact(*inputs(torch.float32)[:2], hints=inputs(torch.float32)[2])
    assert (slots.vectors.float() - full.vectors).norm() / full.vectors.norm() < 0.03


@pytest.mark.parametrize("name", ["kernel and points", "heads compete", "kernel, softmax, normalised"])
def test_bfloat16_autocast_is_close_to_float32(name: str) -> None:
    module = SWITCHES[name]()
    features, starts, hints, _ = inputs(torch.float32)
    exact = module(features, starts, hints=hints).vectors
    with torch.autocast("cpu", dtype=torch.bfloat16):
        slots = module(features, starts, hints=hints)
    slots.vectors.float().square().sum().backward()
    assert (slots.vectors - exact).norm() / exact.norm() < 0.03
    for part, value in leaves(module, features, starts).items():
        assert value.grad is not None, part
        assert torch.isfinite(value.grad).all(), part


@pytest.mark.parametrize(
    "switches", [{"kernel": {}}, {"kernel": {"border": "normalised"}}, {"points": {}}, {"heads": 4}]
)
def test_one_token_and_one_slot(switches: dict[str, Any]) -> None:
    slots = make(**switches)()(Features(torch.randn(2, 1, WIDTH), (1, 1)), torch.randn(2, 1, DIM))
    assert torch.isfinite(slots.vectors).all()
    torch.testing.assert_close(slots.masks, torch.ones(2, 1, 1, 1))


def test_a_slot_that_wins_nothing() -> None:
    """Numerator: the mean of all tokens. Denominator: nothing."""
    tokens = torch.rand(1, 50, 8, dtype=torch.float64)
    query = torch.stack([torch.full((8,), 1e4), torch.full((8,), -1e4)])[None].double()
    for in_sum, expected in ((False, tokens.mean(dim=1)), (True, torch.zeros(1, 8, dtype=torch.float64))):
        attention, pooled = Competition(tokens, Rules(1e-8, in_sum))(query)
        assert attention[0, 1].abs().max() == 0
        torch.testing.assert_close(pooled[:, 1], expected)
        torch.testing.assert_close(pooled[:, 0], tokens.mean(dim=1), rtol=1e-6, atol=1e-6)


def test_bad_switches_are_named() -> None:
    with pytest.raises(ValueError, match="epsilon_in"):
        SlotAttention(16, epsilon_in="sum")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="temperature"):
        SlotAttention(16, temperature=0.0)
    features, starts, _, valid = inputs(torch.float32)
    with pytest.raises(ValueError, match="valid must be bool"):
        make()()(features, starts, valid=valid[:, :2])
    with pytest.raises(ValueError, match="valid must be bool"):
        make()()(features, starts, valid=valid.float())
