"""BCP: boxes of labelled scans are pasted into unlabelled ones, and the other way round.

Bai, Chen, Li, Shen, Wang: "Bidirectional Copy-Paste for Semi-Supervised Medical Image Segmentation", CVPR
2023.

nnUNetv2_train 510 3d_fullres 0 -tr nnUNetTrainerBCP
"""

from nnunet_ssl.training.bcp import nnUNetTrainerBCP

__all__ = ["nnUNetTrainerBCP"]
