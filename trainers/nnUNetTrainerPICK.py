"""PICK: predict what is a target, mask it, rebuild it, segment it again.

Zeng, Lu, Xie, Xia: "PICK: Predict and Mask for Semi-supervised Medical Image Segmentation", International
Journal of Computer Vision, 2025.

nnUNetv2_train 510 3d_fullres 0 -tr nnUNetTrainerPICK
"""

from nnunet_ssl.training.pick import nnUNetTrainerPICK

__all__ = ["nnUNetTrainerPICK"]
