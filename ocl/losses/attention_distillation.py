"""Self-distillation of SPOT (Kakogeorgiou et al. 2024): a student's attention follows a teacher's decoder masks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ocl.hooks import ReadsModel
from ocl.losses.teachers import Teacher
from ocl.matching import optimal_assignment
from ocl.shapes import Batch, Output


class AttentionDistillation(nn.Module, ReadsModel):
    """Cross-entropy from the slot that wins a token in the teacher's decoder to the student's attention at that token.

        L = - mean over tokens n of log A_match(c_n) n,   c_n = argmax over slots of the teacher's masks

    Teacher slots are matched to student slots one to one, so that the IoU of what each wins is largest in sum. A is the
    grouping's last attention; its logarithm differs from the published logits by a constant per token, which
    cross-entropy does not see. Published weight 5e-3.

    Args:
        teacher: `ocl.losses.teachers.FrozenTeacher` or `MovingAverageTeacher`.

    Raises:
        ValueError: a grouping without attention; a teacher of another grid, or of more slots than the student.
    """

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        self.teacher = teacher

    def attach(self, model: nn.Module) -> None:
        if isinstance(self.teacher, ReadsModel):
            self.teacher.attach(model)

    def forward(self, output: Output, batch: Batch) -> Tensor:
        attention = output.slots.masks
        if attention is None:
            raise ValueError("AttentionDistillation needs a grouping that gives its attention as masks.")
        masks = self.teacher(output, batch)
        if masks.shape[-2:] != attention.shape[-2:] or masks.shape[1] > attention.shape[1]:
            raise ValueError(
                f"the teacher's masks {tuple(masks.shape)} must have the grid of the student's attention "
                f"{tuple(attention.shape)} and no more slots."
            )
        student, target = attention.flatten(2), masks.flatten(2).argmax(dim=1)  # (B K N), (B N)
        match = matched_slots(student.detach(), target, masks.shape[1])  # (B K')
        shares = student.gather(1, match.gather(1, target)[:, None])  # (B 1 N)
        return -shares.float().clamp_min(torch.finfo(torch.float32).tiny).log().mean()


def matched_slots(attention: Tensor, target: Tensor, count: int) -> Tensor:
    """(B count) int64: which of the K slots of attention (B K N) each label 0..count - 1 of target (B N) is matched to,
    one to one at the largest summed IoU of what they win; count is at most K."""
    won = functional.one_hot(attention.argmax(dim=1), attention.shape[1]).float()  # (B N K)
    labelled = functional.one_hot(target, count).float()  # (B N count)
    shared = labelled.mT @ won  # (B count K)
    union = labelled.sum(1)[:, :, None] + won.sum(1)[:, None] - shared
    return optimal_assignment(-shared / union.clamp(min=1)).columns
