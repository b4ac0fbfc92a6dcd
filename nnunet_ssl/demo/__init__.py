"""``nnUNetv2_ssl demo``: phantom scans, a baseline and a semi-supervised model, on a laptop."""
