"""DBiSL: segmentation and signed distance, two tasks of one network that teach each other.

Li: "Fully Differentiable Bidirectional Dual-Task Synergistic Learning for Semi-Supervised 3D Medical Image
Segmentation".

nnUNetv2_train 510 3d_fullres 0 -tr nnUNetTrainerDBiSL
"""

from nnunet_ssl.training.dbisl import nnUNetTrainerDBiSL

__all__ = ["nnUNetTrainerDBiSL"]
