"""DBiSL on small data: the method, its network, and outputs written by hand."""

from __future__ import annotations

from nnunet_ssl.methods.dbisl import DBiSL, DBiSLConfig
from nnunet_ssl.nn.task_decoders import branched_network, interpolating_decoder
from tests.unit import toy
from tests.unit.toy import nnunet_loss, stock_network
from tests.unit.toy import space as label_space

SUPERVISED = ("segmentation", "regression", "cross_regression", "cross_segmentation")
INTRA = ("consistency_segmentation", "consistency_regression")
CROSS = ("consistency_s2r", "consistency_r2s")
WATCHED = ("confident", "confident_foreground", "agreement")
TWO_CLASSES = label_space({"organ": 1, "tumor": 2})
EVERY = (*SUPERVISED, *INTRA, *CROSS, "pseudo", *WATCHED)


def dbisl_method(space, dim=2, deep_supervision=True, batch_dice=False, spacing=None, **options):
    loss = nnunet_loss(space, deep_supervision, batch_dice)
    spacing = spacing or (1.0,) * dim
    return DBiSL(DBiSLConfig(**options), loss, space, deep_supervision, spacing, batch_dice)


def channels_of(space):
    return space.num_prompts + (0 if space.table.has_regions else 1)


def dbisl_network(space, dim=2, deep_supervision=True, regression=True, second=True, mean=False):
    planned = stock_network(channels_of(space), dim, deep_supervision)
    other = interpolating_decoder(stock_network(channels_of(space), dim, seed=1), deep_supervision)
    maps = space.num_prompts if regression else 0
    return branched_network(planned, other if second else None, maps, mean, not space.table.has_regions)


def assert_sound(terms, network):
    toy.assert_sound(terms, network, WATCHED)
    for name in set(WATCHED) & terms.keys():
        assert 0 <= terms[name][0] <= 1
