"""Pictures of DBiSL."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nnunet_ssl.methods.dual_task_pictures import label_map as shown_labels
from nnunet_ssl.training.previews import save_previews
from tests.unit.dbisl_parts import dbisl_method, dbisl_network
from tests.unit.toy import SHAPES, SPACES, as_targets, check_strips, generator, label_map, make_batch


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("name", ["classes", "regions_ignore", "tasks"])
def test_preview(name, dim, tmp_path):
    space = SPACES[name]
    network, batch, method = (
        dbisl_network(space, dim).eval(),
        make_batch(space, dim),
        dbisl_method(space, dim),
    )
    with torch.no_grad():
        strips = method.preview(network, batch, generator())
    rest = ["segmentation", "distance", "T_s2r", "T_r2s", "confident"]
    for _, shown in check_strips(strips, batch, rest):
        assert torch.equal(shown["T_r2s"] > 0.5, shown["distance"] > 0)
    assert torch.equal(strips[0][1].values, shown_labels(space, batch.targets[0][:1])[0])
    save_previews(strips, tmp_path / "strip.png")
    assert (tmp_path / "strip.png").is_file()


def test_preview_without_regression_or_unlabelled_images():
    space, batch = SPACES["classes"], replace(make_batch(SPACES["classes"]), unlabeled=None)
    network = dbisl_network(space, regression=False).eval()
    with torch.no_grad():
        strips = dbisl_method(space, regression_task=False).preview(network, batch, generator())
    assert [[p.title for p in s] for s in strips] == [["labelled", "truth", "segmentation", "confident"]]


def test_a_picture_of_regions_shows_the_innermost():
    labels = label_map(SPACES["regions"], [0], SHAPES[2])
    expected = torch.tensor([0, 1, 2])[labels[:, 0].long()]  # whole holds 1 and 2, core holds 2
    assert torch.equal(shown_labels(SPACES["regions"], as_targets(SPACES["regions"], labels)[0]), expected)
