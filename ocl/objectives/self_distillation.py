"""Self-distillation without labels: a student matches a slowly following teacher across views of an image."""

from __future__ import annotations

import copy
import math
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn

from ocl.hooks import AfterStep
from ocl.initialisation import glorot_
from ocl.objectives.base import ViTObjective
from ocl.objectives.views import MultiCrop
from ocl.objectives.vit import TrainableViT
from ocl.shapes import Batch


class ProjectionHead(nn.Module):
    """Three layers to a bottleneck, scaled to length one, then its cosines with learned prototypes: (B D) -> (B C)."""

    def __init__(self, dim: int, hidden_dim: int, bottleneck: int, prototypes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(dim, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, bottleneck),
        )
        glorot_(self.layers)
        self.prototypes = nn.Parameter(torch.randn(prototypes, bottleneck))  # only their directions count

    def forward(self, pooled: Tensor) -> Tensor:
        hidden = self.layers(pooled).float()
        with torch.autocast(hidden.device.type, enabled=False):  # bfloat16 would round cosines / 0.04 by 0.1
            return F.normalize(hidden, dim=-1) @ F.normalize(self.prototypes.float(), dim=-1).mT


class SelfDistillation(ViTObjective, AfterStep):
    """DINO (Caron et al. 2021, arXiv 2104.14294).

    Loss: cross-entropy from the teacher's distribution over prototypes on one large view to the student's on every
    other view, averaged over pairs. The teacher sees large views only, without the student's dropout or stochastic
    depth; its logits are centred by a moving mean and sharpened by a low temperature. Teacher weights follow the
    student's: t <- m t + (1 - m) s after every step, with m rising from `teacher_momentum` to 1 by half a cosine. The
    teacher's ViT is the one that is kept.

    Left out of the published recipe: the frozen last layer of the first epoch, the schedule of the weight decay, and
    the views' changes named in `MultiCrop`. The learning rate is ours.

    Args:
        vit: the student, which the teacher starts as a copy of.
        views: what crops are taken.
        total_steps: of training, for the teacher's momentum.
        prototypes, hidden_dim, bottleneck: of the head. Published: 65,536, 2048 and 256; ours are for small ViTs.
        student_temperature, teacher_temperature: published 0.1 and 0.04 (without its optional warm-up).
        teacher_momentum: at the first step. Published: 0.996.
        centre_momentum: of the moving mean. Published: 0.9.

    Raises:
        ValueError: a temperature, momentum or number of steps out of range, or views that the ViT's patches do not
            divide.
    """

    centre: Tensor
    steps: Tensor

    def __init__(
        self,
        vit: TrainableViT,
        views: MultiCrop,
        total_steps: int,
        prototypes: int = 1024,
        hidden_dim: int = 512,
        bottleneck: int = 128,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.04,
        teacher_momentum: float = 0.996,
        centre_momentum: float = 0.9,
    ) -> None:
        super().__init__()
        if min(student_temperature, teacher_temperature) <= 0 or total_steps < 1:
            raise ValueError(
                f"SelfDistillation needs temperatures above 0 and at least one step, got {student_temperature}, "
                f"{teacher_temperature} and {total_steps}."
            )
        if not (0 <= teacher_momentum <= 1 and 0 <= centre_momentum <= 1):
            raise ValueError(f"momenta must be in [0, 1], got {teacher_momentum} and {centre_momentum}.")
        sides = [views.large, *([views.small] if views.count else [])]
        if any(side % cell for side in sides for cell in vit.patch):
            raise ValueError(f"views must be multiples of the patch size {vit.patch}, got {sides} pixels.")
        self.student = vit
        self.student_head = ProjectionHead(vit.vit.num_features, hidden_dim, bottleneck, prototypes)
        self.vit = copy.deepcopy(vit).requires_grad_(False)
        self.head = copy.deepcopy(self.student_head).requires_grad_(False)
        self.views, self.total_steps = views, total_steps
        self.student_temperature, self.teacher_temperature = student_temperature, teacher_temperature
        self.teacher_momentum, self.centre_momentum = teacher_momentum, centre_momentum
        self.register_buffer("centre", torch.zeros(prototypes))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.vit.train(False)
        self.head.train(False)
        return self

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        large, small = self.views(batch.images)
        count = len(batch)
        with torch.no_grad():
            answers = self.head(self.vit.pooled(large))  # (2 B C)
            targets = ((answers - self.centre) / self.teacher_temperature).softmax(-1).unflatten(0, (2, count))
        student = [self.student.pooled(views) for views in (large, small) if len(views)]
        guesses = (self.student_head(torch.cat(student)) / self.student_temperature).log_softmax(-1)
        loss = cross_view_entropy(targets, guesses.unflatten(0, (-1, count)))
        if self.training:
            self._follow_centre(answers)
        entropy = -torch.special.xlogy(targets, targets).sum(-1).mean()
        # Collapse: one prototype for all images (the average has entropy 0), or none chosen (each has log C).
        average = targets.mean((0, 1))
        return {
            "loss": loss,
            "teacher_entropy": entropy,
            "prototype_entropy": -torch.special.xlogy(average, average).sum(),
        }

    @torch.no_grad()
    def _follow_centre(self, answers: Tensor) -> None:
        mean = answers.mean(0)
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(mean)
            mean /= distributed.get_world_size()
        self.centre.lerp_(mean, 1 - self.centre_momentum)

    @torch.no_grad()
    def after_step(self) -> None:
        """Let the teacher follow the student by one step."""
        progress = self.steps / self.total_steps
        share = (1 - self.teacher_momentum) * (1 + (math.pi * progress.clamp(max=1)).cos()) / 2  # 1 - m
        for teacher, student in ((self.vit, self.student), (self.head, self.student_head)):
            for follower, leader in zip(teacher.parameters(), student.parameters(), strict=True):
                follower.lerp_(leader, share)
        self.steps += 1


def cross_view_entropy(targets: Tensor, guesses: Tensor) -> Tensor:
    """Distributions (2 B C) and log-distributions (V B C), the first two of the same views -> their mean cross-entropy
    over images and over the 2 (V - 1) pairs of different views."""
    with torch.autocast(targets.device.type, enabled=False):  # which takes einsum for a product of matrices
        pairs = -torch.einsum("tbc,vbc->tv", targets, guesses) / targets.shape[1]
    return (pairs.sum() - pairs.diagonal().sum()) / (pairs.numel() - len(pairs))
