"""ProPL: a sentence says what to segment, and pseudo-labels damped by their uncertainty teach.

Chen, Wang, Li, Hu, Shi, Xiong, Zhu, Mou: "ProPL: Universal Semi-Supervised Ultrasound Image Segmentation via
Prompt-Guided Pseudo-Labeling", AAAI 2026.

nnUNetv2_train 516 2d 0 -tr nnUNetTrainerProPL
"""

from nnunet_ssl.training.propl import nnUNetTrainerProPL

__all__ = ["nnUNetTrainerProPL"]
