"""The supervised baseline: the loop, network options and budget of the other trainers, labelled cases alone.

nnUNetv2_train 510 3d_fullres 0 -tr nnUNetTrainerSSLSupervised
"""

from nnunet_ssl.training.supervised import nnUNetTrainerSSLSupervised

__all__ = ["nnUNetTrainerSSLSupervised"]
