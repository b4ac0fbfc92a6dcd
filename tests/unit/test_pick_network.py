"""PICK's network: prediction, dropout, compilation, and two processes against one."""

from __future__ import annotations

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from nnunet_ssl.methods.base import Batch, total_loss
from nnunet_ssl.methods.pick import AUXILIARY, MIM, predict
from nnunet_ssl.nn.multi_decoder import TRAINING_ONLY, MultiDecoderUNet, detached_decoder, for_inference
from tests.unit.gloo import in_processes
from tests.unit.test_distributed import STEPS, WEIGHTS, global_batch, part, rows_of
from tests.unit.test_pick import pick_method, pick_network
from tests.unit.toy import SHAPES, SPACES, generator, make_batch, step, stock_network, values

# Prediction


@pytest.mark.parametrize("dim", [2, 3])
def test_prediction_is_the_stock_network_with_the_same_weights(dim):
    network, x = pick_network(SPACES["classes"], dim).eval(), torch.randn(2, 1, *SHAPES[dim])
    stock = for_inference(stock_network(4, dim, deep_supervision=False, seed=9)).eval()
    stock.load_state_dict(network.state_dict())
    assert torch.equal(stock(x), network(x)[0])
    assert not any(TRAINING_ONLY in name for name, _ in stock.named_parameters())


def test_without_the_training_only_keys_a_checkpoint_is_stocks():
    network, x = pick_network(SPACES["classes"]).eval(), torch.randn(1, 1, *SHAPES[2])
    stripped = {k: v for k, v in network.state_dict().items() if not k.startswith(f"{TRAINING_ONLY}.")}
    stock = stock_network(4, seed=9).eval()
    assert isinstance(stock, PlainConvUNet)
    stock.load_state_dict(stripped)
    assert all(torch.equal(a, b) for a, b in zip(stock(x), network(x), strict=True))


def test_prediction_runs_no_further_decoder():
    network = pick_network(SPACES["classes"])
    for name in (MIM, AUXILIARY):
        network.extra(name).register_forward_pre_hook(lambda *_: pytest.fail("ran"))
    network(torch.randn(1, 1, *SHAPES[2]))


# Several image channels


def test_several_image_channels():
    space = SPACES["classes"]

    def two_channels(classes: int) -> nn.Module:
        return PlainConvUNet(
            input_channels=2,
            n_stages=3,
            features_per_stage=[4, 4, 8],
            conv_op=nn.Conv2d,
            kernel_sizes=3,
            strides=[1, 2, 2],
            num_classes=classes,
            n_conv_per_stage=1,
            n_conv_per_stage_decoder=1,
            norm_op=nn.InstanceNorm2d,
            nonlin=nn.LeakyReLU,
            deep_supervision=False,
        )

    extras = {MIM: two_channels(2), AUXILIARY: two_channels(4)}
    extras = {name: detached_decoder(planned, deep_supervision=False) for name, planned in extras.items()}
    network, made = MultiDecoderUNet(two_channels(4), **extras), make_batch(space, deep_supervision=False)
    images = torch.randn(6, 2, *SHAPES[2], generator=generator())
    batch = Batch(images[:4], made.targets, made.tasks, images[4:])
    terms = step(pick_method(space, deep_supervision=False), network, batch)
    total_loss(terms).backward()
    assert all(torch.isfinite(value) for value, _ in terms.values())
    assert network.extra(MIM).seg_layers[-1].weight.grad.abs().sum((1, 2, 3)).all()  # both channels


# Dropout


def with_dropout(network: MultiDecoderUNet) -> MultiDecoderUNet:
    """Dropout before the last stage of the encoder, as plans may ask for."""
    network.encoder.stages[-1] = nn.Sequential(nn.Dropout2d(0.5), network.encoder.stages[-1])
    return network.train()


def test_pseudo_labels_are_predicted_without_dropout():
    space, images = SPACES["classes"], torch.randn(4, 1, *SHAPES[2], generator=generator())
    network = with_dropout(pick_network(space))
    outputs, pseudo = zip(*(predict(network, images, 2, space) for _ in range(4)), strict=True)
    assert not all(torch.equal(o[0], outputs[0][0]) for o in outputs)  # training sees dropout
    expected = space.hard(network.eval()(images)[0])
    assert all(torch.equal(p, expected) for p in pseudo)


def test_dropout_is_on_again_after_a_step():
    space = SPACES["classes"]
    network = with_dropout(pick_network(space))
    step(pick_method(space), network, make_batch(space))
    assert all(module.training for module in network.modules())


@pytest.mark.parametrize("dropout", [False, True])
def test_pseudo_labels_of_unlabelled_images_keep_no_graph(dropout):
    """Nothing that autograd saves has the size of the unlabelled part of the first link."""
    space, images = SPACES["classes"], torch.randn(5, 1, *SHAPES[2])
    network = with_dropout(pick_network(space)) if dropout else pick_network(space)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.shape[:1]) or t, lambda t: t):
        predict(network, images, 2, space)
    assert (2,) in saved and not {(3,), (5,)} & set(saved)


# Compilation


@pytest.fixture
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def test_compiled_equals_uncompiled_through_warm_up_and_after(fresh_compiler):
    """In one graph, and without a new one at each update; prediction in turn, as in an epoch."""
    space = SPACES["tasks"]
    network, method = pick_network(space), pick_method(space)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch._dynamo.utils.counters.clear()
    for n, progress in enumerate([0.1, 0.2, 0.3, 0.5, 0.9, 1.0]):
        batch, gradients, terms = make_batch(space, seed=n), [], []
        for callee in (network, compiled):
            network.zero_grad()
            made = step(method, callee, batch, seed=n, progress=progress)
            total_loss(made).backward()
            terms.append(values(made))
            gradients.append([p.grad for p in network.parameters()])
        assert terms[0] == pytest.approx(terms[1], rel=1e-5)
        for mine, theirs in zip(*gradients, strict=True):
            assert (mine is None) == (theirs is None)
            assert mine is None or torch.allclose(mine, theirs, atol=1e-5)
        with torch.no_grad():
            assert torch.allclose(compiled(batch.labeled)[0], network(batch.labeled)[0], atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 4


# Two processes (gloo, on the CPU)

DDP_OPTIONS = {
    # the same pairs and boxes in one process as in two: tests of CutMix itself are in test_pick.py
    "attentive": {"cutmix_probability": 0.0},
    "through": {"cutmix_probability": 0.0, "grad_through_reconstruction": True},
    "no mim": {"cutmix_probability": 0.0, "weight_mim": 0.0},
    "no auxiliary": {"cutmix_probability": 0.0, "weight_auxiliary": 0.0},
    "primary": {"cutmix_probability": 0.0, "weight_mim": 0.0, "weight_auxiliary": 0.0},
    "empty": {"cutmix_probability": 0.0},
    "warm-up": {"cutmix_probability": 0.0, "warmup": 1.0},
}
CASES = [(name, space) for name in DDP_OPTIONS for space in ("one_class", "tasks")]


def train(name, space, rows, wrap):
    """A few updates on some rows of the global batches: gradients of the first, weights after the last."""
    method = pick_method(SPACES[space], **DDP_OPTIONS[name])
    method.loss.weight_factors = WEIGHTS
    network = pick_network(SPACES[space], decoders=method.config.decoders)
    if name == "empty":
        network.decoder.seg_layers[-1].bias.data[0] += 1e3
    wrapped = wrap(network)
    optimizer, gradients = torch.optim.SGD(network.parameters(), 0.1), []
    for n in range(STEPS):
        optimizer.zero_grad()
        total_loss(
            method.losses(wrapped, part(global_batch(SPACES[space], n), rows), 1.0, generator())
        ).backward()
        gradients = gradients or [p.grad.clone() for p in network.parameters()]
        optimizer.step()
    return {"gradients": gradients, "weights": [p.detach().clone() for p in network.parameters()]}


def train_part(rank):
    return {case: train(*case, rows_of(rank), DistributedDataParallel) for case in CASES}


@pytest.fixture(scope="module")
def distributed(tmp_path_factory):
    return in_processes(train_part, tmp_path_factory.mktemp("ddp"))


@pytest.mark.integration
@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_two_processes_equal_one(case, distributed):
    one = train(*case, [0, 1, 2, 3], lambda network: network)
    for two in distributed:
        for key in ("gradients", "weights"):
            for mine, theirs in zip(one[key], two[case][key], strict=True):
                assert torch.allclose(mine, theirs, atol=1e-5), key
