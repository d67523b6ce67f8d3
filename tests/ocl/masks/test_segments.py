"""Class probabilities of segments, and the embeddings behind them on disk."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ocl.encoders.cnn import CNNEncoder
from ocl.masks.apply import Grey, GreyCrop
from ocl.masks.base import Masks
from ocl.masks.classifiers import Classifier, LinearHead, SuperClasses
from ocl.masks.embedding_cache import EmbeddingCache, segment_keys
from ocl.masks.image_encoders import TokenMean
from ocl.masks.segments import SegmentClassifier, SegmentEmbedder
from ocl.shards import open_shard

NAMES = ["cat", "dog", "owl"]


def images(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (4, 3, 24, 32), generator=generator, dtype=torch.uint8)


def masks(seed: int = 0) -> Masks:
    found = torch.rand(4, 5, 24, 32, generator=torch.Generator().manual_seed(seed)) < 0.5
    found[2, 3:] = False
    found[3] = False
    return Masks.of(found)


def encoder(seed: int = 0) -> TokenMean:
    torch.manual_seed(seed)
    return TokenMean(CNNEncoder((16, 16), 8, 8, (2, 2)))


def head(seed: int, body: TokenMean | None = None) -> LinearHead:
    made = LinearHead(body or encoder(seed), NAMES)
    generator = torch.Generator().manual_seed(seed)
    return made.fit(torch.randn(30, 8, generator=generator), torch.arange(30) % 3)


def test_an_ensemble_gives_every_members_probabilities() -> None:
    members: list[Classifier] = [head(0), head(1), head(2)]
    ensemble = SegmentClassifier(GreyCrop(16), members, chunk=6)
    given = masks()
    found = ensemble(images(), given)
    assert found.shape == (3, 4, 5, 3)
    squares = GreyCrop(16)(images(), given.masks)
    for number, member in enumerate(members):
        expected = member(squares.flatten(0, 1)).softmax(-1).unflatten(0, (4, 5)) * given.valid[..., None]
        torch.testing.assert_close(found[number], expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.sum(-1), given.valid.float().expand(3, -1, -1))


def test_members_with_one_encoder_share_its_work() -> None:
    body = encoder()
    calls: list[int] = []
    body.register_forward_hook(lambda module, inputs, output: calls.append(len(inputs[0])))
    shared = SegmentClassifier(Grey(16), [head(0, body), head(1, body)])
    found = shared(images(), masks())
    assert sum(calls) == masks().valid.sum()
    assert not torch.equal(found[0], found[1])


def test_what_cannot_be_an_ensemble_is_refused() -> None:
    groups = SuperClasses(head(0), {"pet": ["cat", "dog"], "bird": ["owl"]})
    assert SegmentClassifier(Grey(16), [groups])(images(), masks()).shape == (1, 4, 5, 2)
    with pytest.raises(ValueError, match="same classes"):
        SegmentClassifier(Grey(16), [head(0), groups])
    with pytest.raises(ValueError, match="at least one"):
        SegmentClassifier(Grey(16), [])
    with pytest.raises(ValueError, match="size=16"):
        SegmentClassifier(Grey(17), [head(0)])


def test_keys_tell_every_image_and_mask_apart() -> None:
    first, again = segment_keys(images(), masks()), segment_keys(images(), masks())
    assert first == again
    assert len(first) == masks().valid.sum()
    assert len(set(first)) == len(first)
    assert {len(key) for key in first} == {32}
    assert not set(first) & set(segment_keys(images(1), masks()))
    assert not set(first) & set(segment_keys(images(), masks(1)))
    assert not set(first) & set(segment_keys(images().float() / 255, masks()))
    assert not set(first) & set(segment_keys(images(), Masks.of(masks().masks.float())))
    assert segment_keys(images()[3:], Masks.of(masks().masks[3:])) == []
    # One pixel more or less is another segment.
    changed = masks().masks
    changed[0, 0, 23, 31] ^= True
    assert sum(a != b for a, b in zip(first, segment_keys(images(), Masks.of(changed)), strict=True)) == 1


class Counting(TokenMean):
    """Counts what it encodes."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(CNNEncoder((16, 16), 8, 8, (2, 2)))
        self._encoded = 0

    def encode(self, images: Tensor) -> Tensor:
        self._encoded += len(images)
        return super().encode(images)


def test_only_new_segments_are_encoded(tmp_path: Path) -> None:
    plain = SegmentEmbedder(GreyCrop(16), Counting())(images(), masks())
    counting = Counting()
    embedder = SegmentEmbedder(GreyCrop(16), counting, tmp_path)
    assert torch.equal(embedder(images(), masks()), plain)
    assert counting._encoded == masks().valid.sum() == 13
    more = torch.cat([masks().masks, masks(1).masks], dim=1)  # another mask source beside the first
    embedder(images(), Masks.of(more))
    assert counting._encoded == 13 + 13
    embedder.flush()
    reopened = Counting()
    again = SegmentEmbedder(GreyCrop(16), reopened, tmp_path)
    torch.testing.assert_close(again(images(), masks()), plain)
    assert reopened._encoded == 0
    # Another encoder or application has its own embeddings.
    other = Counting()
    SegmentEmbedder(Grey(16), other, tmp_path)(images(), masks())
    assert other._encoded == 13
    other.encoder.head[1].weight.data += 1  # type: ignore[operator, union-attr, index]
    SegmentEmbedder(GreyCrop(16), other, tmp_path)(images(), masks())
    assert other._encoded == 26


def rows(count: int, seed: int = 0) -> tuple[list[bytes], np.ndarray]:
    generator = np.random.default_rng(seed)
    keys = [generator.bytes(32) for _ in range(count)]
    return keys, generator.normal(size=(count, 7)).astype(np.float32)


def test_vectors_come_back_as_they_were(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path, {"encoder": "a"}, 7, shard_rows=16)
    keys, vectors = rows(70)
    cache.add(keys[:50], vectors[:50])
    cache.add(keys[40:60], vectors[40:60])  # some are known
    order = np.random.default_rng(1).permutation(70)
    for opened in (cache, None):
        if opened is None:
            cache.flush()
            opened = EmbeddingCache(tmp_path, {"encoder": "a"}, 7, shard_rows=16)
        assert len(opened) == 60
        known, found = opened.get([keys[index] for index in order])
        assert np.array_equal(known, order < 60)
        assert np.array_equal(found[known], vectors[order[known]])
        assert not found[~known].any()
    assert cache.get([])[1].shape == (0, 7)
    assert len(EmbeddingCache(tmp_path, {"encoder": "b"}, 7)) == 0


def test_two_writers_share_a_folder(tmp_path: Path) -> None:
    first, second = (EmbeddingCache(tmp_path, {}, 7) for _ in range(2))
    first.add(*rows(20, 1))
    second.add(*rows(20, 2))
    for cache in (first, second):
        cache.flush()
        cache.flush()
    assert len(EmbeddingCache(tmp_path, {}, 7)) == 40
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2


def test_what_is_in_memory_is_written_when_the_program_ends(tmp_path: Path) -> None:
    program = (
        "import sys, numpy as np; from ocl.masks.embedding_cache import EmbeddingCache\n"
        "cache = EmbeddingCache(sys.argv[1], {}, 3); cache.add([bytes(32)], np.ones((1, 3), np.float32))"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, timeout=100)
    assert EmbeddingCache(tmp_path, {}, 3).get([bytes(32)])[1].tolist() == [[1, 1, 1]]


def test_a_damaged_shard_is_one_sentence(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path, {}, 7)
    cache.add(*rows(20))
    cache.flush()
    (path,) = tmp_path.rglob("*.safetensors")
    whole = path.read_bytes()

    def refused(content: bytes, reason: str) -> None:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{path.name} {reason}.*; delete it\.$"):
            EmbeddingCache(tmp_path, {}, 7)

    refused(whole[:-5], "holds|describes")
    refused(whole[:-5] + b"\0" + whole[-4:], "was altered")
    refused(whole[:100], "is not")
    refused(b"", "is not")
    path.write_bytes(whole)
    assert set(open_shard(path).arrays) == {"keys", "vectors"}
    path.rename(path.with_stem("0" * 32))
    with pytest.raises(ValueError, match="was altered"):
        EmbeddingCache(tmp_path, {}, 7)


def test_a_shard_of_something_else_is_refused(tmp_path: Path) -> None:
    first, second = EmbeddingCache(tmp_path, {"encoder": "a"}, 7), EmbeddingCache(tmp_path, {"encoder": "b"}, 7)
    first.add(*rows(3))
    first.flush()
    (path,) = tmp_path.rglob("*.safetensors")
    second.folder.mkdir()
    path.rename(second.folder / path.name)
    with pytest.raises(ValueError, match="another origin"):
        EmbeddingCache(tmp_path, {"encoder": "b"}, 7)
    with pytest.raises(ValueError, match=r"finite and \(3, 7\)"):
        first.add(rows(3)[0], np.full((3, 7), np.nan, np.float32))


class Recording(GreyCrop):
    """Remembers how many masks it was given, and of how many pixels."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._applied: list[int] = []

    def __call__(self, images: Tensor, masks: Tensor) -> Tensor:
        self._applied.append(masks.shape[0] * masks.shape[1])
        return super().__call__(images, masks)


@pytest.mark.parametrize("chunk", [1, 3, 7, 40, 256])
def test_no_more_masks_than_the_chunk_are_applied_at_once(chunk: int) -> None:
    given = torch.rand(4, 60, 24, 32, generator=torch.Generator().manual_seed(5)) < 0.5
    given[:2, :50] = False
    given[2] = False
    recording = Recording(16)
    found = SegmentEmbedder(recording, encoder(), chunk=chunk)(images(), Masks.of(given))
    assert max(recording._applied) <= chunk
    if chunk == 1:
        assert sum(recording._applied) == 10 + 10 + 60, "padding is not applied"
    everything = SegmentEmbedder(GreyCrop(16), encoder(), chunk=1000)(images(), Masks.of(given))
    torch.testing.assert_close(found, everything, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="at least 1 mask"):
        SegmentEmbedder(GreyCrop(16), encoder(), chunk=0)


def test_a_copy_is_the_same_classifier() -> None:
    body = encoder()
    members: list[Classifier] = [head(0, body), head(1, body), head(2)]
    ensemble = SegmentClassifier(GreyCrop(16), members)
    expected = ensemble(images(), masks())
    for copied in (copy.deepcopy(ensemble), pickle.loads(pickle.dumps(ensemble))):
        assert torch.equal(copied(images(), masks()), expected)


def test_halves_of_both_kinds_have_keys_of_their_own(tmp_path: Path) -> None:
    picture, soft = torch.rand(4, 3, 24, 32), Masks.of(torch.rand(4, 2, 24, 32))
    keys: list[bytes] = []
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        given = Masks(soft.masks.to(dtype), soft.scores, soft.valid)
        found = SegmentEmbedder(GreyCrop(16), encoder(), tmp_path)(picture.to(dtype), given)
        assert found.isfinite().all()
        keys += segment_keys(picture.to(dtype), soft) + segment_keys(picture, given)
    assert len(set(keys)) == 5 * 8
