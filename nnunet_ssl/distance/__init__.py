"""Between segmentations and signed distance maps, both ways and with gradients (DBiSL, eqs. 1-5).

Shapes are (B, C, *spatial) in 2D and 3D; every channel is a binary map of its own. Distances run between
voxel centres: a voxel beside a border is one voxel away from it. All arithmetic is in float32 or better, also
inside autocast.
"""

from nnunet_ssl.distance.convolutional import off_centre_sum, soft_distance_transform
from nnunet_ssl.distance.exact import distance_to
from nnunet_ssl.distance.transforms import (
    Form,
    distance_logits,
    distance_to_seg,
    known_distance,
    seg_to_distance,
)

__all__ = [
    "Form",
    "distance_logits",
    "distance_to",
    "distance_to_seg",
    "known_distance",
    "off_centre_sum",
    "seg_to_distance",
    "soft_distance_transform",
]
