"""``nnUNetv2_ssl doctor``: read a dataset once, judge it before anything is trained on it."""
