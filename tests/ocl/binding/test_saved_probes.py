"""Probes come back from disk as they were, whole or one layer of them, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ocl.binding.pointwise import MatchedIdentity, PointwiseClass
from ocl.binding.probes import Cosine, Diagonal, Dot, Linear, LowRank, PairProbe, Quadratic, SignedLowRank
from ocl.binding.saved import SavedProbe, load_probe, save_probe

L, B, N, D = 3, 2, 5, 8

MAKERS: dict[str, Callable[[int], PairProbe]] = {
    "linear": lambda layers: Linear(D, layers),
    "diagonal": lambda layers: Diagonal(D, layers),
    "quadratic": lambda layers: Quadratic(D, layers),
    "low rank": lambda layers: LowRank(D, 4, layers),
    "signed low rank": lambda layers: SignedLowRank(D, 4, 2, layers),
    "signed rank of one": lambda layers: SignedLowRank(D, 1, 1, layers),
    "signed rank of as many as layers": lambda layers: SignedLowRank(D, L, 1, layers),
    "dot": lambda layers: Dot(D, layers),
    "cosine": lambda layers: Cosine(D, layers),
    "class": lambda layers: PointwiseClass(D, 6, layers),
    "matched identity": lambda layers: MatchedIdentity(D, 6, layers),
}


def fitted(name: str) -> PairProbe:
    probe = MAKERS[name](L)
    with torch.no_grad():
        for values in probe.parameters():
            values.normal_()
    probe.standardise(torch.randn(L, 4, N, D) * 3 + 1)
    return probe


@pytest.mark.parametrize("name", MAKERS)
@torch.no_grad()
def test_whole_and_layer_by_layer(name: str, tmp_path: Path) -> None:
    probe, tokens = fitted(name), torch.randn(L, B, N, D)
    path = save_probe(probe, tmp_path / "folder" / "probe.safetensors", torch.arange(3.0))
    logits = probe(tokens)
    assert torch.equal(load_probe(MAKERS[name](L), path)(tokens), logits)
    for layer in range(L):
        alone = SavedProbe(MAKERS[name](1), str(path), layer)
        torch.testing.assert_close(alone(tokens[layer : layer + 1])[0], logits[layer], rtol=1e-5, atol=1e-5)
    last = SavedProbe(MAKERS[name](1), str(path))
    assert torch.equal(last(tokens[2:]), alone(tokens[2:]))
    assert not last.probe.training


def test_what_is_another_probe_or_none_is_refused(tmp_path: Path) -> None:
    probe = fitted("quadratic")
    path = save_probe(probe, tmp_path / "probe.safetensors")
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors does not exist"):
        load_probe(Quadratic(D), tmp_path / "none.safetensors")
    with pytest.raises(
        ValueError, match=r"holds a ocl\.binding\.probes\.Quadratic, not a ocl\.binding\.probes\.LowRank"
    ):
        load_probe(LowRank(D, 4), path, 0)
    with pytest.raises(ValueError, match="make the probe with the sizes of the file"):
        load_probe(Quadratic(D + 1), path, 0)
    with pytest.raises(ValueError, match="or name a layer of it"):
        load_probe(Quadratic(D), path)
    for layer in (3, -4):
        with pytest.raises(ValueError, match=f"has layers 0 to 2 for a probe of one layer, got layer {layer} for 1"):
            load_probe(Quadratic(D), path, layer)
    with pytest.raises(ValueError, match="got layer 0 for 3"):
        load_probe(Quadratic(D, L), path, 0)
    with pytest.raises(ValueError, match="a probe of one layer, got one of 3"):
        SavedProbe(Quadratic(D, L))
    save_file(probe.state_dict(), path)  # of another program, which does not say whose tensors these are
    with pytest.raises(ValueError, match="holds bias, deviation, mean, weight, a LowRank"):
        load_probe(LowRank(D, 4), path, 0)
    assert torch.equal(load_probe(Quadratic(D, L), path).state_dict()["weight"], probe.state_dict()["weight"])
    content = path.read_bytes()
    for broken in (content[: len(content) // 2], b"", b"text"):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match="is not a safetensors file"):
            load_probe(Quadratic(D), path, 0)
