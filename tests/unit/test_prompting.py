"""ProPL's network: the prompting layer equation by equation, two decoders, which prompts are asked."""

from __future__ import annotations

import math

import pytest
import torch
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from torch import nn

from nnunet_ssl.inference.prompts import restrict_output, task_channels
from nnunet_ssl.nn.prompting import PromptingUponDecoding, PromptTokens
from nnunet_ssl.nn.propl_unet import (
    NEVER,
    PROMPTS,
    Bottleneck,
    build_propl_unet,
    gather,
    stages_to_prompt,
)
from tests.unit.toy import SCALES, SHAPES, SPACES, generator, stock_network

PLANS = pytest.mark.parametrize(("dim", "residual"), [(2, False), (3, False), (2, True), (3, True)], ids=str)
C, L, D, M = 8, 5, 6, 3


def layer(channels=C, seed=0):
    torch.manual_seed(seed)
    made = PromptingUponDecoding(channels, L, D, M)
    for parameter in made.parameters():  # norms start at 1 and 0, which would hide a swapped one
        if parameter.ndim == 1:
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    return made


def prompts(count, learned=False, seed=0):
    tokens = torch.randn(count, L, D, generator=generator(seed))
    mask = torch.arange(L) < torch.tensor([[L], [3], [2], [4]])[:count]
    return PromptTokens(tokens, mask, learned)


def network(
    space=SPACES["tasks"],
    dim=2,
    deep_supervision=True,
    residual=False,
    decoders=("sd", "pd"),
    inference="pd",
    seed=0,
    prompted=True,
    learned=False,
):
    def planned():
        return stock_network(1, dim, deep_supervision, residual, seed)

    torch.manual_seed(seed)
    tokens = prompts(space.num_prompts, learned, seed) if prompted else None
    background = not space.table.has_regions
    made = build_propl_unet(planned, decoders, tokens, 2, (3, 2), space.num_prompts, background, inference)
    if "pd" in decoders:  # planned() makes the same weights each time
        for parameter in made.prompted["seg_layers"]["pd"].parameters():
            parameter.data.add_(0.05 * torch.randn_like(parameter))
    return made


def images(dim=2, batch=2):
    return torch.randn(batch, 1, *SHAPES[dim], generator=generator())


# The prompting layer


@pytest.mark.parametrize(("channels", "text_tokens"), [(768, 24), (384, 12), (192, 9)])
def test_parameters_of_the_official_form(channels, text_tokens):
    made = PromptingUponDecoding(channels, 24, 768, text_tokens)
    count = sum(p.numel() for p in made.parameters())
    assert count == 8 * channels**2 + 785 * channels + 25 * text_tokens + 1
    assert count == {768: 5_322_073, 384: 1_481_389, 192: 445_858}[channels]


def attention(module, q, k, v, heads):
    """Multi-head attention of one sample, written out."""
    wq, wk, wv = module.in_proj_weight.chunk(3)
    bq, bk, bv = module.in_proj_bias.chunk(3)
    parts = [(x @ w.T + b).chunk(heads, dim=1) for x, w, b in ((q, wq, bq), (k, wk, bk), (v, wv, bv))]
    mixed = [
        torch.softmax(a @ b.T / math.sqrt(a.shape[1]), dim=1) @ c for a, b, c in zip(*parts, strict=True)
    ]
    return module.out_proj(torch.cat(mixed, dim=1))


@pytest.mark.parametrize("size", [(3, 4), (2, 3, 2)])
def test_equations_1_to_3(size):
    made, z = layer(), torch.randn(2, C, *size, generator=generator())
    text = torch.randn(2, L, D, generator=generator(1))
    output = made(z, text)
    assert output.shape == z.shape
    for one, sentence, h in zip(z, text, output, strict=True):
        tokens = one.flatten(1).T
        x = made.self_in(tokens)
        tokens = tokens + made.self_out(attention(made.self_attention, x, x, x, 1))  # eq. 1
        mixed = made.mix.weight[:, :, 0] @ sentence + made.mix.bias[:, None]
        tau = mixed @ made.project.weight.T + made.project.bias  # eq. 2
        x = attention(made.cross_attention, made.cross_in(tokens), tau, tau, 4)
        tokens = tokens + made.alpha * made.cross_out(x)  # eq. 3
        torch.testing.assert_close(h, tokens.T.view(C, *size), atol=1e-5, rtol=1e-4)


def test_prompt_has_its_say_from_the_start():
    made = PromptingUponDecoding(C, L, D, M)
    assert made.alpha.item() == pytest.approx(1.7)
    z = torch.randn(1, C, 4, 4, generator=generator()).expand(2, -1, -1, -1)
    one, other = made(z, prompts(2)(torch.arange(2)))
    assert (one - other).norm() > 0.1 * z[0].norm()


def test_without_alpha_the_prompt_is_silent():
    made, z = layer(), torch.randn(2, C, 4, 4, generator=generator())
    made.alpha.data.zero_()
    text = torch.randn(2, L, D, generator=generator(1))
    assert torch.equal(made(z, text), made(z, text.flip(0)))


@pytest.mark.parametrize(("channels", "heads"), [(32, 4), (6, 2), (5, 1)])
def test_heads_divide_channels(channels, heads):
    made = layer(channels)
    assert made.cross_attention.num_heads == heads
    assert made(torch.randn(1, channels, 2, 2), torch.randn(1, L, D)).shape == (1, channels, 2, 2)


def test_pairs_do_not_see_each_other():
    made, z = layer(), torch.randn(3, C, 4, 4, generator=generator())
    text = torch.randn(3, L, D, generator=generator(1))
    alone = torch.cat([made(z[i : i + 1], text[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(made(z, text), alone, atol=1e-5, rtol=1e-4)


def test_gradcheck():
    made = layer(4).double()
    z = torch.randn(1, 4, 2, 2, dtype=torch.float64, requires_grad=True)
    text = torch.randn(1, L, D, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(made, (z, text))


@pytest.mark.parametrize("fill", [0.0, 1e4, -1e4])
def test_constant_features(fill):
    made = layer()
    z = torch.full((1, C, 3, 3), fill, requires_grad=True)
    output = made(z, torch.zeros(1, L, D))
    output.sum().backward()
    assert torch.isfinite(output).all() and torch.isfinite(z.grad).all()


# Tokens


def test_padding_does_not_matter():
    made, tokens = layer(), prompts(3)
    z = torch.randn(3, C, 2, 2, generator=generator())
    before = made(z, tokens(torch.arange(3)))
    tokens.tokens[1, 3:] = 1e6
    tokens.tokens[2, 2:] = float("nan")
    assert torch.equal(made(z, tokens(torch.arange(3))), before)
    tokens.tokens[1, 2] += 1
    assert not torch.equal(made(z, tokens(torch.arange(3)))[1], before[1])


def test_tokens_of_pairs():
    tokens = prompts(3)
    assert torch.equal(tokens(torch.tensor([2, 0, 2])), tokens(torch.arange(3))[[2, 0, 2]])


def test_sentences_are_a_buffer_and_learned_vectors_a_parameter():
    assert not list(prompts(3).parameters())
    learned = prompts(3, learned=True)
    assert [n for n, _ in learned.named_parameters()] == ["tokens"]
    assert prompts(3).state_dict().keys() == learned.state_dict().keys()


# The network


@PLANS
@pytest.mark.parametrize(("name", "channels"), [("one_class", 2), ("tasks", 4), ("regions", 2)])
def test_shapes(dim, residual, name, channels):
    outputs = network(SPACES[name], dim, True, residual)(images(dim))
    sizes = [tuple(round(s * scale) for s in SHAPES[dim]) for scale in SCALES]
    assert [tuple(o.shape) for o in outputs] == [(2, channels, *size) for size in sizes]
    assert network(SPACES[name], dim, False, residual)(images(dim)).shape == (2, channels, *SHAPES[dim])


def test_channels_are_log_odds_of_the_prompts():
    made, x = network(deep_supervision=False), images()
    output = made(x)
    assert not output[:, 0].any()
    for k in range(3):
        alone = made.decode("pd", made.encoder(x), torch.tensor([k, k]))[0]
        torch.testing.assert_close(output[:, k + 1], alone, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(output[:, 1], output[:, 2], atol=1e-3)


def test_mean_of_both_decoders():
    x = images()
    output = {i: network(deep_supervision=False, inference=i)(x) for i in ("sd", "pd", "mean")}
    assert not torch.allclose(output["sd"], output["pd"], atol=1e-3)
    torch.testing.assert_close(output["mean"], (output["sd"] + output["pd"]) / 2)


def test_coarser_outputs_of_pd_are_its_own_prediction():
    full, half, quarter = network()(images())
    torch.testing.assert_close(half, nn.functional.avg_pool2d(full, 2))
    torch.testing.assert_close(quarter, nn.functional.avg_pool2d(full, 4))


def test_coarser_outputs_of_sd_are_those_of_deep_supervision():
    made, x = network(inference="sd"), images()
    plain = made.decode("sd", made.encoder(x), torch.zeros(2, dtype=torch.long), every_resolution=True)
    for output, expected in zip(made(x), plain, strict=True):
        torch.testing.assert_close(output[:, 1], expected, atol=1e-5, rtol=1e-4)


def test_planned_decoder_without_prompting_is_nnunets():
    made, stock, x = network(prompted=False, inference="sd"), stock_network(1), images()
    for output, expected in zip(made(x), stock(x), strict=True):
        for k in range(3):
            torch.testing.assert_close(output[:, k + 1], expected[:, 0])


def test_coarse_stages_are_prompted():
    assert stages_to_prompt((256, 256), [1, 2, 2, 2, 2, 2, 2], 1024) == 4  # 4, 8, 16 and 32 voxels wide
    assert stages_to_prompt((256, 256), [1, 2, 2, 2, 2, 2, 2], 1023) == 3
    assert stages_to_prompt((24, 40, 48), [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2]], 1024) == 2
    assert stages_to_prompt((16, 320, 320), [[1, 1, 1], [1, 2, 2], [2, 2, 2]], 1024) == 1  # at least
    assert stages_to_prompt((16, 16), [1, 2, 2], 1024) == 2  # the finest never
    # the official code at 224: 7x7, 14x14 and 28x28, of ConvNeXt's stages
    assert stages_to_prompt((224, 224), [4, 2, 2, 2], 1024) == 3


@PLANS
def test_bottleneck(dim, residual):
    made = network(dim=dim, residual=residual)
    assert made.bottleneck == Bottleneck(8, (8, 8) if dim == 2 else (4, 8, 8))
    assert made.bottleneck.shape(SHAPES[dim]) == made.encoder(images(dim))[-1].shape[1:]


def test_gather_copies_only_what_it_must():
    skips = [torch.randn(2, 3, 4), torch.randn(2, 5, 2)]
    assert all(a is b for a, b in zip(gather(skips, None), skips, strict=True))
    assert torch.equal(gather(skips, torch.tensor([1, 1, 0]))[1], skips[1][[1, 1, 0]])


# Which prompts are asked


class Counter:
    """Counts samples of the encoder and pairs of a decoder."""

    def __init__(self, made):
        self.encoded, self.decoded, self.supervised = [], [], []
        made.encoder.register_forward_hook(lambda m, i, o: self.encoded.append(len(i[0])))
        parts = made.prompted["seg_layers"]
        parts["pd"].stages[0].register_forward_hook(lambda m, i, o: self.decoded.append(len(o)))
        made.decoder.stages[0].register_forward_hook(lambda m, i, o: self.supervised.append(len(o)))


def test_one_pass_of_the_encoder_and_of_pd_alone():
    made, x = network(), images()
    counter = Counter(made)
    made.ask(torch.tensor([False, True, False]))
    made(x)
    assert (counter.encoded, counter.decoded, counter.supervised) == ([2], [2], [])


@pytest.mark.parametrize("name", ["tasks", "region_tasks"])
def test_prompts_that_are_not_asked_are_never_predicted(name):
    made, x = network(SPACES[name], deep_supervision=False), images()
    full = made(x)
    made.ask(torch.tensor([False, True, False]))
    output = made(x)
    channel = 2 if name == "tasks" else 1
    torch.testing.assert_close(output[:, channel], full[:, channel], atol=1e-5, rtol=1e-4)
    others = [c for c in (1, 3) if name == "tasks"] or [0, 2]
    assert (output[:, others] == NEVER).all()
    made.ask(None)
    assert torch.equal(made(x), full)


def test_samples_of_different_tasks():
    """As nnU-Net's online validation asks: atrium of the first sample, front and back of the second."""
    space, x = SPACES["tasks"], images()
    made = network(space)
    counter = Counter(made)
    full = made(x)
    handle = restrict_output(made, task_channels(space, torch.tensor([0, 1])))
    outputs = made(x)
    assert counter.decoded == [6, 3]
    for output, before in zip(outputs, full, strict=True):
        torch.testing.assert_close(output[0, :2], before[0, :2], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(output[1, 2:], before[1, 2:], atol=1e-5, rtol=1e-4)
        assert (output[0, 2:] < -40).all() and (output[1, 1] < -40).all()
    handle.remove()
    assert all(torch.equal(a, b) for a, b in zip(made(x), full, strict=True))


@pytest.mark.parametrize("name", ["tasks", "region_tasks"])
def test_restriction_asks_once_and_gives_back_the_question_before(name, monkeypatch):
    made, x = network(SPACES[name], deep_supervision=False), images()
    made.ask(torch.tensor([True, False, False]))
    before, questions = made(x), []
    monkeypatch.setattr(made, "ask", lambda keep, ask=made.ask: (questions.append(keep.tolist()), ask(keep)))
    wanted = [False, True, True]
    keep = torch.tensor([True, *wanted] if name == "tasks" else wanted)
    restrict_output(torch.compile(made, backend="eager"), keep).remove()
    assert questions == [wanted, [True, False, False]]
    assert torch.equal(made(x), before)


# Weights


@PLANS
def test_state_dict_keys(dim, residual):
    keys = list(network(dim=dim, residual=residual).state_dict())
    stock = list(stock_network(1, dim, residual=residual).state_dict())
    assert keys[: len(stock)] == stock
    assert {".".join(k.split(".")[:3]) for k in keys[len(stock) :]} == {
        "prompted.seg_layers.layers_sd",
        "prompted.seg_layers.layers_pd",
        "prompted.seg_layers.pd",
        "prompted.seg_layers.prompts",
    }
    assert f"{PROMPTS}.tokens" in keys
    assert not [k for k in keys if "pd.encoder" in k]


@pytest.mark.parametrize("inference", ["pd", "sd", "mean"])
def test_weights_of_training_serve_prediction(inference):
    training = network(inference=inference, seed=0)
    decoders = ("sd", "pd") if inference == "mean" else (inference,)
    state = training.state_dict()
    prediction = network(deep_supervision=False, inference=inference, decoders=decoders, seed=1)
    keys = set(state)
    prediction.load_state_dict(state)
    assert set(state) == keys  # the checkpoint is left alone
    torch.testing.assert_close(prediction(images()), training(images())[0])
    assert len(prediction.state_dict()) == len(state) or inference != "mean"
    assert sum(p.numel() for p in prediction.parameters()) <= sum(p.numel() for p in training.parameters())


def test_what_is_missing_is_an_error():
    state = network().state_dict()
    del state["prompted.seg_layers.layers_pd.0.alpha"]
    with pytest.raises(RuntimeError, match="layers_pd.0.alpha"):
        network(deep_supervision=False, decoders=("pd",)).load_state_dict(state)


@PLANS
def test_weights_of_stock_nnunet_start_encoder_and_sd(dim, residual, tmp_path):
    made = network(dim=dim, residual=residual, seed=0)
    before = {k: v.clone() for k, v in made.state_dict().items()}
    stock = stock_network(4, dim, residual=residual, seed=1).state_dict()
    torch.save({"network_weights": stock}, tmp_path / "checkpoint.pth")
    load_pretrained_weights(made, str(tmp_path / "checkpoint.pth"))
    for key, value in made.state_dict().items():
        assert torch.equal(value, before[key] if ".seg_layers." in key else stock[key]), key


def test_deep_supervision_switch_of_nnunet():
    made = network()
    full = made(images())[0]
    made.decoder.deep_supervision = False  # what nnUNetTrainer.set_deep_supervision_enabled does
    assert torch.equal(made(images()), full)
