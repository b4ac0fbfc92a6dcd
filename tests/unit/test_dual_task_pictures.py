"""Pictures of DBiSL."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nnunet_ssl.training.previews import save_previews
from tests.unit.dbisl_parts import dbisl_method, dbisl_network
from tests.unit.toy import SPACES, check_strips, generator, make_batch


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
    assert torch.equal(strips[0][1].values, space.label_map(batch.targets[0][:1])[0])
    save_previews(strips, tmp_path / "strip.png")
    assert (tmp_path / "strip.png").is_file()


def test_preview_without_regression_or_unlabelled_images():
    space, batch = SPACES["classes"], replace(make_batch(SPACES["classes"]), unlabeled=None)
    network = dbisl_network(space, regression=False).eval()
    with torch.no_grad():
        strips = dbisl_method(space, regression_task=False).preview(network, batch, generator())
    assert [[p.title for p in s] for s in strips] == [["labelled", "truth", "segmentation", "confident"]]
