"""Mean Teacher: the moving average of the network teaches it on unlabelled scans.

Tarvainen, Valpola: "Mean teachers are better role models", NeurIPS 2017; for segmentation as in Yu et al.,
"Uncertainty-aware Self-ensembling Model", MICCAI 2019, without its uncertainty.

nnUNetv2_train 510 3d_fullres 0 -tr nnUNetTrainerMeanTeacher
"""

from nnunet_ssl.training.mean_teacher import nnUNetTrainerMeanTeacher

__all__ = ["nnUNetTrainerMeanTeacher"]
