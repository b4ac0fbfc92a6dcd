"""Compiled networks: what they give is what they give uncompiled, in training and in prediction."""

import pytest
import torch

from nnunet_ssl.methods.base import total_loss
from nnunet_ssl.methods.versemi import VerSemi, VerSemiConfig
from nnunet_ssl.nn.prompted_unet import Prompted
from tests.unit.test_dbisl import dbisl_method, dbisl_network
from tests.unit.toy import SCALE_WEIGHTS, SPACES, generator, make_batch, prompted_network

SPACE = SPACES["tasks"]


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()


def compiled(network):
    return torch.compile(network, backend="eager", fullgraph=True)


def versemi(space):
    return VerSemi(VerSemiConfig(), space, SCALE_WEIGHTS)


METHODS = {"VerSemi": (versemi, prompted_network), "DBiSL": (dbisl_method, dbisl_network)}


def step(network, callee, method=versemi):
    """Values of the terms, and the gradients of the network."""
    network.zero_grad()
    method = method(SPACE)
    terms = method.losses(callee, make_batch(SPACE), 0.5, generator())
    total_loss(terms).backward()
    return {k: v.item() for k, (v, _) in terms.items()}, [p.grad for p in network.parameters()]


@pytest.mark.parametrize(("method", "make_network"), METHODS.values(), ids=METHODS)
def test_training_step(method, make_network):
    network = make_network(SPACE)
    terms, gradients = step(network, network, method)
    gradients = [None if g is None else g.clone() for g in gradients]
    compiled_terms, compiled_gradients = step(network, compiled(network), method)
    assert compiled_terms == pytest.approx(terms, rel=1e-5)
    for mine, theirs in zip(compiled_gradients, gradients, strict=True):
        assert (mine is None) == (theirs is None)
        assert mine is None or torch.allclose(mine, theirs, atol=1e-5)


def test_training_and_prediction_in_turn():
    """As in an epoch: train, validate, train; one form must not be served the other's graph."""
    network = prompted_network(SPACE)
    callee, images = compiled(network), make_batch(SPACE).labeled
    first, _ = step(network, callee)
    assert isinstance(callee(images, prompted=True), Prompted)
    with torch.no_grad():
        outputs = callee(images)
    assert [o.shape[1] for o in outputs] == [4, 4, 4]
    for one, other in zip(outputs, network(images), strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    assert step(network, callee)[0] == pytest.approx(first, rel=1e-5)


def test_deep_supervision_switch():
    """What nnUNetTrainer.set_deep_supervision_enabled does before and after the final validation."""
    network = prompted_network(SPACE)
    callee, images = compiled(network), make_batch(SPACE).labeled
    outputs = callee(images)
    network.decoder.deep_supervision = False
    assert torch.allclose(callee(images), outputs[0], atol=1e-5)
    network.decoder.deep_supervision = True
    assert len(callee(images)) == 3
