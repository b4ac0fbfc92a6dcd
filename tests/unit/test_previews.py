"""Strips of pictures."""

from __future__ import annotations

import torch
from matplotlib.image import imread

from nnunet_ssl.methods.base import Panel
from nnunet_ssl.training.previews import save_previews, shown_slice


def test_strips_of_2d_and_3d_panels_of_every_kind(tmp_path):
    labels = torch.zeros(6, 8, 9, dtype=torch.long)
    labels[4, 2:5, 2:5] = 2
    volume = [Panel("image", torch.randn(6, 8, 9)), Panel("labels", labels, "labels")]
    flat = [Panel("p", torch.rand(8, 9), "unit"), Panel("d", torch.rand(8, 9) * 2 - 1, "signed"), volume[0]]
    file = tmp_path / "previews" / "epoch_0001.png"
    save_previews([volume, flat], file)
    assert imread(file).std() > 0.05
    assert shown_slice(volume) == 4


def test_without_foreground_the_middle_is_shown():
    assert shown_slice([Panel("x", torch.randn(6, 4, 4)), Panel("y", torch.zeros(6, 4, 4), "labels")]) == 3


def test_nothing_to_draw_writes_nothing(tmp_path):
    save_previews([], tmp_path / "a" / "b.png")
    assert not (tmp_path / "a").exists()
