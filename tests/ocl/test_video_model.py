"""Slots carried through clips: against frame by frame by hand, and the losses that hold them together."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import ocl
from ocl import checkpoints
from ocl.data.collate import collate
from ocl.data.moving_scenes import MovingScenes
from ocl.decoders.mlp import MLPDecoder
from ocl.decoders.patch import PatchDecoder
from ocl.decoders.top_k import TopKDecoder
from ocl.encoders.cnn import CNNEncoder
from ocl.instantiate import instantiate
from ocl.losses.feature_similarity import FeatureSimilarity, similarity_targets
from ocl.losses.reconstruction import FeatureReconstruction, PixelReconstruction
from ocl.losses.slot_contrast import SlotContrast
from ocl.metrics.segmentation import SegmentationMetrics
from ocl.representations.slot_model import FrozenSlotModel
from ocl.schedules import WarmupHalving
from ocl.shapes import Batch, Decoded, Features, Output, Slots, frames_as_float
from ocl.slots.attention import SlotAttention
from ocl.slots.initial import LearnedSlots, RandomSlots
from ocl.slots.predictor import SlotPredictor
from ocl.starting_weights import take_weights
from ocl.training import ObjectCentricTraining
from ocl.video import VideoModel

B, T, K, D = 2, 4, 3, 8
CLIPS = torch.rand(B, T, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def model_of(decoder: torch.nn.Module | None = None, **settings: object) -> VideoModel:
    return VideoModel(
        CNNEncoder((16, 16), D, 8, (2, 2)),
        LearnedSlots(K, D),
        SlotAttention(D, iterations=3, hidden_dim=16),
        PatchDecoder(D, (8, 8), 2, 16, 1) if decoder is None else decoder,
        **{"predictor": SlotPredictor(D, heads=2), **settings},
    )


def output_of(slots: Tensor, tokens: Tensor | None = None, prediction: Tensor | None = None) -> Output:
    tokens = torch.zeros(*slots.shape[:2], 4, 5) if tokens is None else tokens
    prediction = tokens if prediction is None else prediction
    features = Features(tokens, (2, 2))
    return Output(features, features, slots, Slots.of(slots), Decoded(prediction, prediction))


@pytest.mark.parametrize("later", [1, 2])
def test_a_clip_is_its_frames_one_after_the_other(later: int) -> None:
    model = model_of(later_iterations=later)
    output = model(CLIPS)
    slots = None
    for frame in range(T):
        features = model.encoder(CLIPS[:, frame])
        start = model.initial_slots(features) if slots is None else model.predictor(slots)
        found = model.grouping(features, start, 3 if slots is None else later)
        slots = found.vectors
        decoded = model.decoder(slots)
        torch.testing.assert_close(output.initial[:, frame], start)
        torch.testing.assert_close(output.slots.vectors[:, frame], slots)
        torch.testing.assert_close(output.slots.masks[:, frame], found.masks)
        torch.testing.assert_close(output.decoded.prediction[:, frame], decoded.prediction)
        torch.testing.assert_close(output.decoded.masks[:, frame], decoded.masks)
        torch.testing.assert_close(output.features.tokens[:, frame], features.tokens)


def test_no_frame_sees_a_later_one() -> None:
    changed = CLIPS.clone()
    changed[:, 2:] = 0
    model = model_of()
    before, after = model(CLIPS).slots.vectors, model(changed).slots.vectors
    assert torch.equal(before[:, :2], after[:, :2])
    assert not torch.equal(before[:, 2], after[:, 2])


def test_the_predictor_begins_as_the_identity_and_knows_no_order_of_slots() -> None:
    predictor, slots, order = SlotPredictor(D), torch.randn(B, K, D), torch.tensor([2, 0, 1])
    assert torch.equal(predictor(slots), slots)
    for layer in (predictor.attention.out_proj, predictor.mlp[2]):
        torch.nn.init.normal_(layer.weight)
    assert not torch.allclose(predictor(slots), slots, atol=0.1)
    torch.testing.assert_close(predictor(slots)[:, order], predictor(slots[:, order]))
    with pytest.raises(ValueError, match="heads must divide"):
        SlotPredictor(D, heads=3)


def test_one_frame_is_an_image() -> None:
    model = model_of()
    clip, image = model(CLIPS[:, :1]), model(CLIPS[:, 0])
    torch.testing.assert_close(clip.slots.vectors[:, 0], image.slots.vectors)
    torch.testing.assert_close(clip.decoded.masks[:, 0], image.decoded.masks)
    assert FrozenSlotModel(model, decoder_masks=True).encode(Batch(CLIPS[:, 0])).masks is not None


def test_gradients_of_the_last_frame_reach_the_starts_and_the_predictor() -> None:
    model = model_of(TopKDecoder(MLPDecoder(D, D, (4, 4), 16), 2))
    output = model(CLIPS)
    assert ((output.decoded.masks > 0).sum(dim=2) == 2).all()
    output.decoded.prediction[:, -1].square().sum().backward()
    assert bool((model.initial_slots.slots.grad != 0).any())
    for layer in (model.predictor.attention.out_proj, model.predictor.mlp[2]):
        assert bool((layer.weight.grad != 0).any())


def test_without_gradients_through_time_every_frame_starts_from_slots_taken_as_given() -> None:
    model = model_of(through_time=False)
    output = model(CLIPS)
    output.decoded.prediction[:, -1].square().sum().backward()
    found = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    assert not found.pop("initial_slots.slots").any()
    model.zero_grad()
    grouped = model.follow(model.encoder(CLIPS[:, -1]), output.slots.vectors[:, -2].detach())
    model.decode(grouped).prediction.square().sum().backward()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, model.get_parameter(name).grad, rtol=1e-3, atol=1e-5, msg=name)
    through = model_of()
    through.load_state_dict(model.state_dict())
    torch.testing.assert_close(through(CLIPS).decoded.prediction, output.decoded.prediction)


def test_training_steps_and_clip_metrics() -> None:
    batch = collate(MovingScenes(2, image_size=16, frames=3).__getitems__([0, 1]))
    losses = {"pixels": PixelReconstruction(), "contrast": SlotContrast()}
    training = ObjectCentricTraining(model_of(), losses, WarmupHalving(1, 10), {"contrast": 0.5})
    batch.images = frames_as_float(batch.images)
    output = training.model(batch.images, hints=batch.hints)
    total, terms = training._losses(output, batch)
    torch.testing.assert_close(total, terms["pixels"] + 0.5 * terms["contrast"])
    total.backward()
    metrics = SegmentationMetrics()
    metrics.update(output.decoded.masks, batch.segmentation)
    assert all(math.isfinite(value) for value in metrics.compute().values())


def test_contrast_of_orthogonal_slots_that_stay_and_of_slots_that_are_alike() -> None:
    still = torch.eye(8)[: B * K].view(B, 1, K, 8).expand(B, T, K, 8) * 3
    expected = math.log(1 + (B * K - 1) * math.exp(-1 / 0.1))
    assert float(SlotContrast()(output_of(still), Batch(CLIPS))) == pytest.approx(expected, abs=1e-6)
    alike = torch.ones(B, T, K, 8)
    assert float(SlotContrast()(output_of(alike), Batch(CLIPS))) == pytest.approx(math.log(B * K), rel=1e-6)


def test_contrast_equals_pairs_written_out() -> None:
    slots, temperature = torch.randn(B, T, K, D), 0.3
    terms = []
    for time in range(T - 1):
        for clip in range(B):
            for k in range(K):
                here = slots[clip, time, k]
                there = slots[:, time + 1].reshape(-1, D)
                cosine = torch.cosine_similarity(here[None], there) / temperature
                terms.append(cosine.logsumexp(0) - cosine[clip * K + k])
    found = SlotContrast(temperature)(output_of(slots), Batch(CLIPS))
    torch.testing.assert_close(found, torch.stack(terms).mean())


def test_similarity_of_tokens_that_move_one_place() -> None:
    tokens = torch.eye(4).repeat(1, 3, 1, 1)
    tokens[0, 1] = tokens[0, 0].roll(1, dims=0)  # token i is at place i + 1 in the second frame
    target = similarity_targets(tokens, 0.01)
    torch.testing.assert_close(target[0, 0], torch.eye(4).roll(1, dims=1))
    prediction = torch.cat([tokens, torch.zeros(1, 3, 4, 4)], dim=-1)
    loss = FeatureSimilarity(temperature=0.01, weight=0.5)(output_of(torch.zeros(1, 3, 2, 4), tokens, prediction), None)
    assert float(loss) == pytest.approx(0.5 * math.log(4), rel=1e-5)


def test_similarity_equals_features_and_cross_entropy_written_out() -> None:
    tokens, prediction = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 9)
    output = output_of(torch.zeros(2, 3, 2, 4), tokens, prediction)
    terms = []
    for clip in range(2):
        for time in range(2):
            for token in range(4):
                cosine = torch.cosine_similarity(tokens[clip, time, token][None], tokens[clip, time + 1]) / 0.075
                log_shares = prediction[clip, time, token, 5:].log_softmax(0)
                terms.append(-(cosine.softmax(0) * log_shares).sum())
    expected = (prediction[..., :5] - tokens).square().mean() + 0.1 * torch.stack(terms).mean()
    torch.testing.assert_close(FeatureSimilarity()(output, Batch(CLIPS)), expected)


def test_bad_input_is_named() -> None:
    model = model_of()
    with pytest.raises(ValueError, match="clips must be"):
        model(CLIPS[None])
    features = model.encoder(CLIPS[:, 0])
    with pytest.raises(ValueError, match=r"must be \(B, K, D\) with B = 2, got \(3, 3, 8\)"):
        model.follow(features, torch.zeros(B + 1, K, D))
    with pytest.raises(ValueError, match="fixed at K = 3, got 4"):
        model.follow(features, torch.zeros(B, K + 1, D))
    model.predictor = torch.nn.ZeroPad2d((0, 0, 0, 1))  # one slot more
    with pytest.raises(ValueError, match=r"the predictor made \(2, 4, 8\) of \(2, 3, 8\)"):
        model(CLIPS)
    model = model_of()
    with pytest.raises(ValueError, match="later_iterations"):
        model_of(later_iterations=0)
    with pytest.raises(ValueError, match="two frames or more"):
        SlotContrast()(model(CLIPS[:, :1]), Batch(CLIPS))
    with pytest.raises(ValueError, match="two frames or more"):
        FeatureSimilarity()(model(CLIPS[:, :1]), Batch(CLIPS))
    with pytest.raises(ValueError, match="F \\+ N = 5 \\+ 4"):
        FeatureSimilarity()(output_of(torch.zeros(B, T, K, D)), Batch(CLIPS))
    short = collate(MovingScenes(1, frames=2).__getitems__([0]))
    with pytest.raises(ValueError, match="different shapes in one batch"):
        collate([{"images": short.images[0]}, {"images": CLIPS[0]}])


def test_random_starts_hold_their_k_through_a_clip() -> None:
    model = model_of()
    model.initial_slots = RandomSlots(K, D)
    assert model(CLIPS, num_slots=5).slots.vectors.shape == (B, T, 5, D)


def test_features_of_clips_are_reconstructed_frame_by_frame() -> None:
    model = model_of(MLPDecoder(D, D, (4, 4), 16))
    output = model(CLIPS)
    expected = (output.decoded.prediction - output.features.tokens).square().mean()
    torch.testing.assert_close(FeatureReconstruction()(output, Batch(CLIPS)), expected)


def image_model() -> dict[str, Any]:
    """The packaged model, as a tree of class paths."""
    tree: dict[str, Any] = checkpoints.read_config(ocl.checkpoint_at("sprites"))["model"]
    return tree


def clip_model(**settings: Any) -> dict[str, Any]:
    predictor = {"class_path": "ocl.slots.predictor.SlotPredictor", "init_args": {"dim": 64}}
    arguments = {**image_model()["init_args"], "predictor": predictor, **settings}
    return {"class_path": "ocl.video.VideoModel", "init_args": arguments}


def test_a_model_of_clips_starts_as_the_model_of_images_carried_along() -> None:
    model, frames = instantiate(clip_model(later_iterations=12)).eval(), torch.rand(2, 3, 3, 64, 64)
    take_weights(model, "sprites")
    images = ocl.load("sprites")
    output = model(frames, noise=images.noise)
    slots = images(Batch(frames[:, 0])).vectors
    torch.testing.assert_close(output.slots.vectors[:, 0], slots)
    for frame in (1, 2):
        slots = images.following(Batch(frames[:, frame]), slots).vectors
        torch.testing.assert_close(output.slots.vectors[:, frame], slots, rtol=1e-3, atol=1e-3)


def test_a_checkpoint_of_clips_encodes_frames_one_after_the_other(tmp_path: Path) -> None:
    tree, frames = clip_model(), torch.rand(2, 3, 3, 64, 64)
    model = instantiate(tree)
    torch.nn.init.normal_(model.predictor.mlp[2].weight, std=0.1)  # as after training: no identity any more
    checkpoints.save(tree, model, tmp_path)
    encoder = ocl.load(tmp_path)
    output = model.eval()(frames, noise=encoder.noise)
    slots = encoder(Batch(frames[:, 0])).vectors
    for frame in (1, 2):
        slots = encoder.following(Batch(frames[:, frame]), slots).vectors
        torch.testing.assert_close(output.slots.vectors[:, frame], slots, rtol=1e-4, atol=1e-4)
    for changed in (slots[:, :6], slots[:1], slots[..., :32]):
        with pytest.raises(ValueError, match=r"the slots of the frames before must be \(2, 7, 64\)"):
            encoder.following(Batch(frames[:, 0]), changed)


def test_only_parts_that_are_neutral_may_be_missing_from_a_start() -> None:
    model = instantiate(clip_model())
    model.predictor = torch.nn.Linear(64, 64)
    with pytest.raises(ValueError, match=r"sprites has no predictor\.bias"):
        take_weights(model, "sprites")
