"""VerSemi: one network for many datasets, taught by unlabelled scans whose task nobody knows.

Zeng, Xie, Lu, Lu, Wu, Xia: "Segment Together: A Versatile Paradigm for Semi-Supervised Medical Image
Segmentation", IEEE Transactions on Medical Imaging, 2025.

nnUNetv2_train 510 3d_fullres 0 -tr nnUNetTrainerVerSemi
"""

from nnunet_ssl.training.versemi import nnUNetTrainerVerSemi

__all__ = ["nnUNetTrainerVerSemi"]
