"""Teacher and student in one module: names, copies, averages, and what prediction loads."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from nnunet_ssl.nn.ema import (
    STUDENT,
    TEACHER,
    num_updates,
    start_other,
    teacher_and_student,
    update_teacher,
)
from nnunet_ssl.nn.multi_decoder import TRAINING_ONLY, MultiDecoderUNet, for_inference
from tests.unit.gloo import group
from tests.unit.toy import SHAPES, Counting, stock_network

BOTH = pytest.mark.parametrize("inference", [TEACHER, STUDENT])


def pair(inference: str = TEACHER, residual: bool = False) -> MultiDecoderUNet:
    """Two networks that differ."""
    first, second = (stock_network(3, residual=residual, seed=seed) for seed in (0, 1))
    return teacher_and_student(first, second, inference)


def planned(network: MultiDecoderUNet) -> dict[str, torch.Tensor]:
    return {n: p for n, p in network.named_parameters() if not n.startswith(TRAINING_ONLY)}


def extra(network: MultiDecoderUNet, name: str) -> dict[str, torch.Tensor]:
    return dict(network.extra(name).named_parameters())


def teacher_of(network: MultiDecoderUNet, inference: str) -> dict[str, torch.Tensor]:
    return planned(network) if inference == TEACHER else extra(network, TEACHER)


def student_of(network: MultiDecoderUNet, inference: str) -> dict[str, torch.Tensor]:
    return extra(network, STUDENT) if inference == TEACHER else planned(network)


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    assert one.keys() == other.keys()
    return all(torch.equal(one[n], other[n]) for n in one)


@BOTH
@pytest.mark.parametrize("residual", [False, True])
def test_without_training_only_it_is_stock(inference, residual):
    network = pair(inference, residual)
    stock = stock_network(3, residual=residual)
    kept = {k: v for k, v in network.state_dict().items() if not k.startswith(f"{TRAINING_ONLY}.")}
    assert kept.keys() == stock.state_dict().keys()
    for_inference(stock).load_state_dict(network.state_dict())
    x = torch.randn(1, 1, *SHAPES[2])
    assert torch.equal(stock.eval()(x)[0], network.eval()(x)[0])


@BOTH
def test_only_the_student_wants_gradients(inference):
    network = pair(inference)
    assert not any(p.requires_grad for p in teacher_of(network, inference).values())
    assert all(p.requires_grad for p in student_of(network, inference).values())


@BOTH
def test_teacher_and_student_share_nothing(inference):
    network = pair(inference)
    start_other(network)
    places = [{p.data_ptr() for p in part(network, inference).values()} for part in (teacher_of, student_of)]
    assert not places[0] & places[1]


@BOTH
def test_the_other_starts_as_a_copy_of_the_planned_one(inference):
    network = pair(inference)
    before = {n: p.clone() for n, p in planned(network).items()}
    other = STUDENT if inference == TEACHER else TEACHER
    assert not equal(before, extra(network, other))
    start_other(network)
    assert equal(before, planned(network)) and equal(before, extra(network, other))


@BOTH
def test_after_an_update_nothing_is_copied_any_more(inference):
    network = pair(inference)
    update_teacher(network, 0.5)
    before = copy.deepcopy(network.state_dict())
    start_other(network)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


@BOTH
@pytest.mark.parametrize("decay", [0.0, 0.25, 0.99, 1.0])
def test_the_average_by_hand(inference, decay):
    network = pair(inference)
    teacher = {n: p.clone() for n, p in teacher_of(network, inference).items()}
    student = {n: p.clone() for n, p in student_of(network, inference).items()}
    update_teacher(network, decay)
    assert equal(student, student_of(network, inference))
    for n, p in teacher_of(network, inference).items():
        assert torch.allclose(p, decay * teacher[n] + (1 - decay) * student[n], atol=1e-6)
    if decay == 0:
        assert equal(student, teacher_of(network, inference))
    if decay == 1:
        assert equal(teacher, teacher_of(network, inference))


def test_a_constant_student_is_approached_geometrically():
    network = pair(TEACHER)
    with torch.no_grad():
        for p in planned(network).values():
            p.zero_()
        for p in extra(network, STUDENT).values():
            p.fill_(1)
    for n in range(1, 6):
        update_teacher(network, 0.9)
        assert num_updates(network) == n
        for p in planned(network).values():
            assert torch.allclose(p, torch.full_like(p, 1 - 0.9**n))


def test_statistics_of_norms_follow_and_counters_are_copied():
    network = pair(TEACHER)
    for part in (network.encoder, network.extra(STUDENT).encoder):
        part.norm = nn.BatchNorm2d(2)
    student, teacher = network.extra(STUDENT).encoder.norm, network.encoder.norm
    student.running_mean.fill_(4)
    student.num_batches_tracked.fill_(7)
    update_teacher(network, 0.75)
    assert teacher.running_mean.tolist() == [1, 1]
    assert teacher.num_batches_tracked == 7


@BOTH
def test_a_checkpoint_continues_the_average(inference):
    network, copied = pair(inference), pair(inference)
    update_teacher(network, 0.5)
    copied.load_state_dict(copy.deepcopy(network.state_dict()))
    assert num_updates(copied) == 1
    for each in (network, copied):
        start_other(each)
        update_teacher(each, 0.5)
    assert all(torch.equal(v, copied.state_dict()[k]) for k, v in network.state_dict().items())


def test_weights_of_stock_nnunet_reach_the_planned_names_and_then_the_other(tmp_path):
    """nnU-Net's -pretrained_weights: it must accept the network, and the student starts there, too."""
    from nnunetv2.run.load_pretrained_weights import load_pretrained_weights

    network, pretrained = pair(TEACHER), stock_network(2, seed=9)
    torch.save({"network_weights": pretrained.state_dict()}, tmp_path / "stock.pth")
    load_pretrained_weights(network, tmp_path / "stock.pth")
    start_other(network)
    for n, p in pretrained.named_parameters():
        if ".seg_layers." not in n:
            assert torch.equal(extra(network, STUDENT)[n], p) and torch.equal(planned(network)[n], p)


def test_wrappers_are_looked_through(tmp_path):
    with group(tmp_path):
        for wrap in (Counting, DistributedDataParallel, lambda n: torch.compile(n, backend="eager")):
            network = pair(TEACHER)
            wrapped = wrap(network)
            start_other(wrapped)
            update_teacher(wrapped, 0.5)
            assert num_updates(wrapped) == num_updates(network) == 1
