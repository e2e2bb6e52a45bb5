"""How far a student's maps are from its teacher's: one function a distance, gradients to the student alone.

Maps of another size are brought to the teacher's, bilinearly. The reduction of each is said, because it decides what a
weight means.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Reduction = Literal["pixel", "element"]


def pixel_kl(
    student: Tensor,
    teacher: Tensor,
    temperature: float = 1.0,
    reduction: Reduction = "pixel",
    valid: Tensor | None = None,
) -> Tensor:
    """KL divergence of the student's class distribution from the teacher's at each pixel (Hinton et al., 2015).

    Args:
        student: logits ``(B, K, h, w)``.
        teacher: logits ``(B, K, H', W')``.
        temperature: divides both; the result is multiplied by its square, so that gradients keep their size.
        reduction: "pixel" adds up the classes and takes the mean over pixels; "element" is the mean over classes
            too, K times smaller (what ``nn.KLDivLoss`` does unless told otherwise).
        valid: bool ``(B, H, W)`` of any size, the pixels that count; all of them if not given.
    """
    log_p = F.log_softmax(resized(student.float(), teacher) / temperature, dim=1)
    log_q = F.log_softmax(teacher.detach().float() / temperature, dim=1)
    at_pixel = F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(1)
    if reduction == "element":
        at_pixel = at_pixel / teacher.shape[1]
    return temperature**2 * _mean(at_pixel, valid)


def channel_kl(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """Channel-wise distillation (Shu et al., ICCV 2021): where in the image each channel is strong.

    Every channel ``(B, C, h, w)`` becomes a distribution over positions; the KL divergences are averaged over channels
    and images, and multiplied by the squared temperature.
    """
    log_p = F.log_softmax(resized(student.float(), teacher).flatten(2) / temperature, dim=2)
    log_q = F.log_softmax(teacher.detach().float().flatten(2) / temperature, dim=2)
    return temperature**2 * F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(2).mean()


def imitation(student: Tensor, teacher: Tensor, relative: bool = True) -> Tensor:
    """Half the mean squared difference of two maps ``(B, C, h, w)``: the hint loss (FitNets, Romero et al., ICLR 2015).

    ``relative`` divides by the teacher's mean square, so that one weight fits maps of any scale (our addition).
    """
    teacher = teacher.detach().float()
    loss = F.mse_loss(resized(student.float(), teacher), teacher) / 2
    return loss / teacher.square().mean().clamp(min=1e-12) if relative else loss


def resized(maps: Tensor, like: Tensor) -> Tensor:
    """``maps`` at the height and width of ``like``."""
    if maps.shape[-2:] == like.shape[-2:]:
        return maps
    return F.interpolate(maps, size=like.shape[-2:], mode="bilinear", align_corners=False)


def _mean(at_pixel: Tensor, valid: Tensor | None) -> Tensor:
    """Mean of ``(B, h, w)`` over the pixels that count; 0 where there is none."""
    if valid is None:
        return at_pixel.mean()
    counts = valid[:, None].float()
    if counts.shape[-2:] != at_pixel.shape[-2:]:
        counts = F.interpolate(counts, size=at_pixel.shape[-2:], mode="nearest-exact")
    counts = counts[:, 0]
    return torch.where(counts > 0, at_pixel, 0.0).sum() / counts.sum().clamp(min=1)
