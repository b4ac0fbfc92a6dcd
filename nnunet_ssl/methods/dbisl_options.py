"""Options of DBiSL, and which of its parts they switch on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from nnunet_ssl.config import check_range
from nnunet_ssl.distance import Form
from nnunet_ssl.errors import ConfigError


@dataclass(frozen=True)
class DBiSLConfig:
    """Options of DBiSL; the defaults are the paper's unless a reason is given. A weight of 0 drops its term.

    Attributes:
        weight_sup_con: lambda of eq. 15, on all supervised and consistency terms.
        weight_regression: of the regression loss against labels (eq. 6, second term).
        weight_cross_supervision: of the supervision across tasks (eq. 7; Table 4, ct_sup).
        weight_intra_consistency: of the consistency between branches (eq. 9; Table 4, it_con).
        weight_cross_consistency: of the consistency between tasks (eq. 10; Table 4, ct_con).
        weight_pseudo: largest beta of eq. 15 (Table 4, pse_sup).
        ramp_length: share of training over which beta ramps up, 0 for none.
        pseudo_on: teach pseudo-labels on ``all`` images or the ``unlabeled`` only (Table 5).
        cross_direction: transforms that tie the tasks: ``both``, ``s2r`` or ``r2s`` alone (Table 13).
        regression_task: ``false`` leaves out the regression heads and all their terms (Table 4, reg_task).
        second_decoder: ``false`` leaves out the second decoder.
        distance_form: T_s2r by the ``exact`` transform or the paper's ``convolution``. See
            ``nnunet_ssl.distance.seg_to_distance``, also for the next five.
        distance_scale: resolution of T_s2r relative to the patch (Table 9). The paper takes 0.5 because its
            transform would not fit into memory otherwise and finds that more is better; ours fits.
        distance_kernel_size: edge of the kernel of eq. 2.
        distance_h: softness of the kernel of eq. 2, in voxels.
        distance_band: distances are cut down to it, in mm (voxels for ``convolution``); ``None`` for not.
        distance_k: steepness k of T_r2s (eq. 1).
        distance_ce_weight: of the cross entropy beside Dice in L_seg(T_r2s(R), Y) (eq. 7); the paper's L_seg
            is a weighted sum whose weights it does not give. Unset, it is 1/k: then the gradient in R is as
            large as that of a segmentation head's cross entropy in its logit; at 1 it is k times that, and
            clipping the whole gradient shrinks all other terms with it.
        inference_branches: predict with the ``first`` decoder, which is stock nnU-Net's network, or with the
            ``mean`` of both, at the price of a second decoder.
    """

    # What can be changed of a trained model.
    inference_options: ClassVar[tuple[str, ...]] = ("inference_branches",)

    weight_sup_con: float = 0.5
    weight_regression: float = 1.0
    weight_cross_supervision: float = 1.0
    weight_intra_consistency: float = 1.0
    weight_cross_consistency: float = 1.0
    weight_pseudo: float = 1.0
    ramp_length: float = 0.35
    pseudo_on: Literal["all", "unlabeled"] = "all"
    cross_direction: Literal["both", "s2r", "r2s"] = "both"
    regression_task: bool = True
    second_decoder: bool = True
    distance_form: Form = "exact"
    distance_scale: float = 1.0
    distance_kernel_size: int = 3
    distance_h: float = 0.35
    distance_band: float | None = None
    distance_k: float = 200.0
    distance_ce_weight: float | None = None
    inference_branches: Literal["first", "mean"] = "first"

    def __post_init__(self) -> None:
        check_range("weight_sup_con", self.weight_sup_con, low=0, open_low=True)
        for name in ("regression", "cross_supervision", "intra_consistency", "cross_consistency", "pseudo"):
            check_range(f"weight_{name}", getattr(self, f"weight_{name}"), low=0)
        check_range("ramp_length", self.ramp_length, low=0, high=1)
        check_range("distance_scale", self.distance_scale, low=0, high=1, open_low=True)
        check_range("distance_kernel_size", self.distance_kernel_size, low=3)
        check_range("distance_h", self.distance_h, low=0, open_low=True)
        check_range("distance_k", self.distance_k, low=0, open_low=True)
        if self.distance_ce_weight is not None:
            check_range("distance_ce_weight", self.distance_ce_weight, low=0)
        if self.distance_band is not None:
            check_range("distance_band", self.distance_band, low=0, open_low=True)
        self._check_together()

    @property
    def cross_entropy_weight(self) -> float:
        """Of the cross entropy of k R."""
        return 1 / self.distance_k if self.distance_ce_weight is None else self.distance_ce_weight

    def _check_together(self) -> None:
        if self.distance_kernel_size % 2 == 0:
            raise ConfigError(
                f"Option distance_kernel_size: expected an odd number, got {self.distance_kernel_size}."
            )
        if self.inference_branches == "mean" and not self.second_decoder:
            raise ConfigError(
                "inference_branches=mean needs second_decoder=true, got false. Set one of them."
            )
        if self.regression_task and not self.regression_is_taught:
            raise ConfigError(
                "regression_task=true needs a term that teaches the regression heads, but all that do are "
                "off. Set regression_task=false, or weight_regression=1."
            )

    @property
    def s2r(self) -> bool:
        """Whether a term compares transformed segmentations."""
        return self._crosses and self.cross_direction != "r2s"

    @property
    def r2s(self) -> bool:
        """Whether a term compares transformed distance maps."""
        return self._crosses and self.cross_direction != "s2r"

    @property
    def consistency(self) -> bool:
        """Whether there is a consistency term."""
        within = self.second_decoder and self.weight_intra_consistency > 0
        return within or (self.regression_task and self.weight_cross_consistency > 0)

    @property
    def regression_is_taught(self) -> bool:
        """Whether a gradient reaches the regression heads; without one they would stop DDP."""
        across = self.weight_cross_supervision > 0 and self.cross_direction != "s2r"
        return self.weight_regression > 0 or across or self.consistency

    @property
    def _crosses(self) -> bool:
        return self.regression_task and max(self.weight_cross_supervision, self.weight_cross_consistency) > 0
