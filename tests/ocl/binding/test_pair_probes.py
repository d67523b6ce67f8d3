"""Probes against double loops and each other; many layers as many single ones; never an (N, N, D) tensor."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ocl.binding.next_attention import NextAttention
from ocl.binding.patches import Patches, distinct_pairs
from ocl.binding.pointwise import MatchedIdentity, PointwiseClass, PointwiseIdentity
from ocl.binding.probes import (
    Cosine,
    Diagonal,
    Dot,
    FormProbe,
    Linear,
    LowRank,
    PairProbe,
    Quadratic,
    SignedLowRank,
)

L, B, N, D, K, C = 3, 4, 7, 12, 5, 6

MAKERS: dict[str, Callable[[int, int], PairProbe]] = {
    "linear": Linear,
    "diagonal": Diagonal,
    "quadratic": Quadratic,
    "low rank": lambda dim, layers: LowRank(dim, K, layers),
    "signed low rank": lambda dim, layers: SignedLowRank(dim, K, 2, layers),
    "positive low rank": lambda dim, layers: SignedLowRank(dim, K, layers=layers),
    "dot": Dot,
    "cosine": Cosine,
    "class": lambda dim, layers: PointwiseClass(dim, C, layers),
    "identity": lambda dim, layers: PointwiseIdentity(dim, C, layers),
    "matched identity": lambda dim, layers: MatchedIdentity(dim, C, layers),
}


def random_probe(name: str, dim: int = D, layers: int = L) -> PairProbe:
    probe = MAKERS[name](dim, layers)
    with torch.no_grad():
        for values in probe.parameters():
            values.normal_()
    return probe


def loop(score: Callable[[int, Tensor, Tensor], Tensor], tokens: Tensor) -> Tensor:
    """One pair at a time, in float64."""
    layers, images, patches, _ = tokens.shape
    pairs = torch.empty(layers, images, patches, patches, dtype=torch.float64)
    for layer in range(layers):
        for image in range(images):
            for i in range(patches):
                for j in range(patches):
                    pairs[layer, image, i, j] = score(layer, tokens[layer, image, i], tokens[layer, image, j])
    return pairs


def plain(probe: Any, layer: int, x: Tensor, y: Tensor) -> Tensor:
    """The logit of one pair as the paper writes it."""
    own = {name: values.double() for name, values in probe.named_parameters()}
    own = {name: values[layer] for name, values in own.items()}
    root, weight = math.sqrt(D), own.get("weight")
    match probe:
        case Linear():
            logit = weight @ x + weight @ y
        case Diagonal():
            logit = x @ weight.diag() @ y
        case Quadratic():
            logit = x @ ((weight + weight.T) / 2) @ y / root
        case LowRank():
            left, right = own["left"], own["right"]
            logit = ((left @ x) @ (right @ y) + (left @ y) @ (right @ x)) / 2 / root
        case SignedLowRank():
            logit = x @ weight.T @ probe.signs.double().diag() @ weight @ y / root
        case Dot():
            logit = own["scale"] * (x @ y) / root
        case Cosine():
            logit = own["scale"] * (x @ y) / x.norm() / y.norm()
        case _:
            p, q = ((weight @ token + own["bias"]).softmax(0) for token in (x, y))
            return torch.log(p @ q / (1 - p @ q))
    return logit + own["bias"]


@pytest.mark.parametrize("name", MAKERS)
@torch.no_grad()
def test_batched_logits_are_those_of_one_pair_at_a_time(name: str) -> None:
    probe, tokens = random_probe(name), torch.randn(L, B, N, D)
    logits = probe(tokens)
    assert logits.shape == (L, B, N, N)
    assert (logits - logits.mT).abs().max() <= 1e-6
    expected = loop(lambda layer, x, y: plain(probe, layer, x, y), tokens.double())
    torch.testing.assert_close(logits.double(), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_one_probe_is_a_case_of_another() -> None:
    tokens = torch.randn(L, B, N, D)
    diagonal, quadratic = random_probe("diagonal"), Quadratic(D, L)
    quadratic.weight.copy_(torch.diag_embed(diagonal.weight) * math.sqrt(D))
    quadratic.bias.copy_(diagonal.bias)
    torch.testing.assert_close(quadratic(tokens), diagonal(tokens), rtol=1e-5, atol=1e-5)
    low, signed = random_probe("low rank"), random_probe("signed low rank")
    quadratic.weight.copy_(low.left.mT @ low.right)
    quadratic.bias.copy_(low.bias)
    torch.testing.assert_close(quadratic(tokens), low(tokens), rtol=1e-5, atol=1e-5)
    quadratic.weight.copy_(signed.weight.mT @ (signed.signs[:, None] * signed.weight))
    quadratic.bias.copy_(signed.bias)
    torch.testing.assert_close(quadratic(tokens), signed(tokens), rtol=1e-5, atol=1e-5)
    low.left.copy_(signed.weight * signed.signs[:, None])
    low.right.copy_(signed.weight)
    low.bias.copy_(signed.bias)
    torch.testing.assert_close(low(tokens), signed(tokens), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_signs_are_the_signs_of_the_form() -> None:
    positive, mixed = random_probe("positive low rank"), random_probe("signed low rank")
    values = torch.linalg.eigvalsh(positive.form().double())
    assert ((values > 1e-6).sum(-1) == K).all()
    assert (values > -1e-6).all()
    values = torch.linalg.eigvalsh(mixed.form().double())
    assert ((values > 1e-6).sum(-1) == K - 2).all()
    assert ((values < -1e-6).sum(-1) == 2).all()
    with pytest.raises(ValueError, match="negative signs must be 0 to the rank 5, got 6"):
        SignedLowRank(D, K, 6)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("linear", D + 1),
        ("diagonal", D + 1),
        ("quadratic", D * D + 1),
        ("low rank", 2 * K * D + 1),
        ("signed low rank", K * D + 1),
        ("positive low rank", K * D + 1),
        ("dot", 2),
        ("cosine", 2),
        ("class", C * (D + 1)),
        ("identity", C * (D + 1)),
    ],
)
def test_parameters_of_a_layer(name: str, count: int) -> None:
    assert sum(values.numel() for values in MAKERS[name](D, L).parameters()) == L * count


@pytest.mark.parametrize("name", MAKERS)
def test_layers_are_independent(name: str) -> None:
    """A probe of L layers is L probes: their logits, their losses and their gradients."""
    patches = Patches(torch.randn(L, B, N, D), torch.randint(C, (B, N)), torch.randint(C, (B, N)))
    counted, probe = distinct_pairs(patches), random_probe(name)
    losses = probe.loss(patches, counted)
    losses.sum().backward()
    for layer in range(L):
        single = MAKERS[name](D, 1)
        own = {key: values[layer : layer + 1] for key, values in probe.named_parameters()}
        single.load_state_dict({**single.state_dict(), **own})
        alone = Patches(patches.tokens[layer : layer + 1], patches.objects, patches.classes)
        torch.testing.assert_close(single(alone.tokens)[0], probe(patches.tokens)[layer], rtol=1e-5, atol=1e-5)
        loss = single.loss(alone, counted)
        torch.testing.assert_close(loss[0], losses[layer])
        loss.sum().backward()
        for (_, mine), (_, all_layers) in zip(single.named_parameters(), probe.named_parameters(), strict=True):
            torch.testing.assert_close(mine.grad[0], all_layers.grad[layer], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["linear", "diagonal", "quadratic", "low rank", "cosine", "class"])
def test_the_loss_is_what_torch_says(name: str) -> None:
    patches = Patches(torch.randn(L, B, N, D), torch.randint(-1, 3, (B, N)), torch.randint(-1, C, (B, N)))
    counted, probe = distinct_pairs(patches), random_probe(name)
    losses = probe.loss(patches, counted)
    for layer in range(L):
        if isinstance(probe, PointwiseClass):
            scores = probe.names(patches.tokens)[layer].flatten(0, 1)
            expected = nn.functional.cross_entropy(scores, patches.classes.flatten(), ignore_index=-1)
        else:
            logits = probe(patches.tokens)[layer][counted]
            expected = nn.functional.binary_cross_entropy_with_logits(logits, patches.same[counted].float())
        torch.testing.assert_close(losses[layer], expected)


@torch.no_grad()
def test_standardised_probes_have_their_form_in_the_tokens_of_the_model() -> None:
    """With the mean at 0, x^T form y is the logit of the tokens as they came."""
    probe: FormProbe = random_probe("quadratic")
    tokens = torch.randn(L, B, N, D) * torch.rand(L, 1, 1, D) * 9
    tokens = torch.cat([tokens, -tokens], dim=1)
    probe.standardise(tokens.half())
    standard = probe.read(tokens)
    torch.testing.assert_close(standard.flatten(1, 2).std(1, correction=0), torch.ones(L, D), rtol=2e-3, atol=2e-3)
    expected = torch.einsum("lbnd,lde,lbme->lbnm", tokens, probe.form(), tokens) + probe.bias[:, None, None, None]
    torch.testing.assert_close(probe(tokens), expected, rtol=1e-3, atol=2e-3)


class Largest(TorchDispatchMode):
    """The most numbers that any tensor had that an operation gave."""

    numbers = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        output = function(*arguments, **(keywords or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor):
                self.numbers = max(self.numbers, tensor.untyped_storage().nbytes() // 4)
        return output


@pytest.mark.parametrize("name", [name for name in MAKERS if "identity" not in name])
def test_memory_never_holds_pairs_times_width(name: str) -> None:
    """37 x 37 patches of width 1024, forward and backward: N^2 numbers at most, not the N^2 D that expanding takes."""
    patches, dim = 1369, 1024
    probe = MAKERS[name](dim, 1)
    image = Patches(torch.randn(1, 1, patches, dim), torch.arange(patches)[None] % 5, torch.arange(patches)[None] % 5)
    with Largest() as largest:
        probe.loss(image, distinct_pairs(image)).sum().backward()
        probe(image.tokens)
    assert patches * dim <= largest.numbers <= patches * patches


def test_expanded_pairs_would_be_noticed() -> None:
    with Largest() as largest:
        tokens = torch.randn(40, 8)
        assert (tokens[:, None] * tokens).shape == (40, 40, 8)
    assert largest.numbers == 40 * 40 * 8


def blocks(count: int) -> list[Any]:
    vit = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=4, num_classes=0)
    with torch.no_grad():
        for values in vit.parameters():
            values.add_(0.05 * torch.randn_like(values))  # norms and biases that are not 1 and 0
    return list(vit.eval().blocks[1 : count + 1])


@torch.no_grad()
def test_next_attention_is_what_the_next_block_attends_with() -> None:
    """Summed over heads and made symmetric, its logits are the block's own, up to sqrt(d) for sqrt(D)."""
    after = blocks(2)
    tokens = torch.randn(2, B, 16, 192)
    probe = NextAttention(after)
    logits = probe(tokens)
    for layer, block in enumerate(after):
        attention = block.attn
        qkv = attention.qkv(block.norm1(tokens[layer])).unflatten(-1, (3, attention.num_heads, -1))
        query, key, _ = qkv.permute(2, 0, 3, 1, 4)
        own = (query * attention.scale @ key.mT).sum(1) * math.sqrt(attention.head_dim / 192)
        torch.testing.assert_close(logits[layer], (own + own.mT) / 2, rtol=1e-4, atol=1e-4)
    plain = NextAttention(after, norm=False)(tokens)
    query, key, _ = after[0].attn.qkv(tokens[0]).chunk(3, dim=-1)
    torch.testing.assert_close(plain[0], (query @ key.mT + key @ query.mT) / 2 / math.sqrt(192), rtol=1e-4, atol=1e-4)
    assert sum(values.numel() for values in probe.parameters()) == 2 * 2
    with pytest.raises(ValueError, match="do not standardise"):
        probe.standardise(tokens)


@torch.no_grad()
def test_next_attention_takes_biases_that_lie_beside_the_projection() -> None:
    block: Any = timm.create_model("beit_base_patch16_224", img_size=32, num_classes=0).blocks[1]
    block.attn.q_bias.normal_()
    tokens = torch.randn(1, B, 4, 768)
    query, key, _ = block.attn.qkv(block.norm1(tokens[0])).chunk(3, dim=-1)
    own = (query + block.attn.q_bias) @ key.mT / math.sqrt(768)
    torch.testing.assert_close(NextAttention([block])(tokens)[0], (own + own.mT) / 2, rtol=1e-4, atol=1e-4)


def test_next_attention_refuses_what_it_cannot_read() -> None:
    talking = timm.create_model("cait_xxs24_224", img_size=32, num_classes=0).blocks[0]
    for block in (nn.Identity(), talking):
        with pytest.raises(ValueError, match="one linear projection"):
            NextAttention([block])
    normed = timm.create_model("vit_tiny_patch16_224", depth=1, qk_norm=True, num_classes=0)
    with pytest.raises(ValueError, match="head by head"):
        NextAttention(list(normed.blocks))


def test_wrong_tokens_are_refused() -> None:
    probe = Quadratic(D, L)
    for wrong in (torch.randn(L, B, N, D + 1), torch.randn(1, B, N, D), torch.randn(B, N, D)):
        with pytest.raises(ValueError, match=r"tokens must be \(3, B, n, 12\)"):
            probe(wrong)
    with pytest.raises(ValueError, match="at least 1"):
        Quadratic(0)
    with pytest.raises(ValueError, match="add a leading axis for one layer"):
        Patches(torch.randn(B, N, D), torch.zeros(B, N, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"objects must be int64 \(4, 7\)"):
        Patches(torch.randn(L, B, N, D), torch.zeros(B, N + 1, dtype=torch.int64))


@pytest.mark.parametrize("scale", [1e-4, 1.0, 100.0])
@torch.no_grad()
def test_a_dimension_that_never_changes_does_not_take_over_the_form(scale: float) -> None:
    tokens = torch.randn(L, B, 50, D)
    tokens[..., 3] = 1.7
    tokens[..., 5] = 0
    tokens *= scale
    probe = LowRank(D, K, L)
    probe.standardise(tokens)
    assert (probe.deviation[:, [3, 5]] == 1).all()
    assert probe.read(tokens)[..., [3, 5]].abs().max() < 1e-4
    others = [dim for dim in range(D) if dim not in (3, 5)]
    torch.testing.assert_close(probe.read(tokens)[..., others].std((1, 2), correction=0), torch.ones(L, D - 2))
    if scale <= 1:
        form = probe.form()
        assert form[:, [3, 5]].abs().max() <= form[:, others].abs().max()


@torch.no_grad()
def test_hard_answers_are_equal_names() -> None:
    probe, tokens = random_probe("class"), torch.randn(L, B, N, D)
    names = probe.names(tokens).argmax(-1)
    for image in range(B):
        for i in range(N):
            for j in range(N):
                expected = 1 if names[1, image, i] == names[1, image, j] else -1
                assert probe.hard(tokens)[1, image, i, j] == expected


def test_a_name_too_many_is_refused() -> None:
    patches = Patches(torch.randn(L, B, N, D), torch.full((B, N), C), torch.full((B, N), C))
    for name, what in (("class", "class"), ("identity", "object")):
        with pytest.raises(ValueError, match=f"has {C} names, but a {what} has the number {C}"):
            MAKERS[name](D, L).loss(patches, distinct_pairs(patches))
        below = Patches(torch.randn(L, B, N, D), torch.full((B, N), -2), torch.full((B, N), -2))
        with pytest.raises(ValueError, match=f"0 or more, or -1 for unknown, but a {what} has the number -2"):
            MAKERS[name](D, L).loss(below, distinct_pairs(below))
    with pytest.raises(ValueError, match="these patches have none"):
        MAKERS["class"](D, L).loss(Patches(patches.tokens, patches.objects), distinct_pairs(patches))


@torch.no_grad()
def test_matched_identity_does_not_care_which_name_an_object_has() -> None:
    """Renaming the objects of an image changes the plain loss and not the matched one."""
    tokens, objects = torch.randn(L, B, N, D), torch.randint(C, (B, N))
    renamed = torch.stack([torch.randperm(C) for _ in range(B)]).gather(1, objects)
    matched, plain = random_probe("matched identity"), random_probe("identity")
    before, after = Patches(tokens, objects), Patches(tokens, renamed)
    counted = distinct_pairs(before)
    torch.testing.assert_close(matched.loss(before, counted), matched.loss(after, counted))
    assert ((plain.loss(before, counted) - plain.loss(after, counted)).abs() > 0.01).all()
    assert (matched.loss(before, counted) < plain.loss(before, counted)).all()
