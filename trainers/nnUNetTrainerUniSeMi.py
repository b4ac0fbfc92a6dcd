"""UniSeMi: the forerunner of VerSemi, without its auxiliary prompt constraint.

"UniSeMi: Toward Unified Semi-Supervised Medical Image Segmentation", anonymous submission under review.

nnUNetv2_train 510 3d_fullres 0 -tr nnUNetTrainerUniSeMi
"""

from nnunet_ssl.training.versemi import nnUNetTrainerUniSeMi

__all__ = ["nnUNetTrainerUniSeMi"]
