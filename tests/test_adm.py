"""ADM against a second, short implementation written by hand, and EDM's names of its tensors."""

import math

import pytest
import torch
from test_ddpmpp import shaken
from torch.nn import functional as F

from cdedu.networks.edm import ADM, Block

GOLDEN = {
    "map_layer0.weight": (768, 192),
    "map_label.weight": (768, 1000),
    "enc.64x64_conv.weight": (192, 3, 3, 3),
    "enc.64x64_block0.affine.weight": (384, 768),
    "enc.32x32_down.conv0.weight": (192, 192, 3, 3),
    "enc.32x32_block0.skip.weight": (384, 192, 1, 1),
    "enc.8x8_block2.qkv.weight": (2304, 768, 1, 1),
    "dec.8x8_in0.proj.weight": (768, 768, 1, 1),
    "dec.16x16_block0.qkv.weight": (1728, 576, 1, 1),
    "dec.64x64_block3.skip.weight": (192, 384, 1, 1),
    "out_norm.weight": (192,),
    "out_conv.weight": (3, 192, 3, 3),
}


def test_the_default_has_the_parameters_and_tensors_of_edms_imagenet_network():
    with torch.device("meta"):
        net = ADM()
    assert sum(p.numel() for p in net.parameters()) == 295_899_267
    shapes = {name: tuple(t.shape) for name, t in net.state_dict().items()}
    assert GOLDEN.items() <= shapes.items()
    absent = ("map_label.bias", "enc.32x32_down.skip.weight", "dec.32x32_up.skip.weight")
    assert not {*absent, "enc.64x64_block0.qkv.weight", "dec.64x64_block3.qkv.weight"} & {*shapes}


@pytest.mark.parametrize("resample", ["", "down", "up"])
@pytest.mark.parametrize("c_out", [64, 128])
@pytest.mark.parametrize("attention", [False, True])
def test_a_block_is_adms(resample, c_out, attention):
    block = shaken(Block(64, c_out, 6, 0.5, attention, resample, adm=True))
    w = {name: 0.2 * t if t.ndim > 1 else t for name, t in block.state_dict().items()}
    block.load_state_dict(w)
    g = torch.Generator().manual_seed(1)
    x, emb = torch.randn(2, 64, 4, 4, generator=g).double(), torch.randn(2, 6, generator=g).double()

    def norm(h, name):
        groups = h.unflatten(1, (min(32, h.shape[1] // 4), -1))
        var, mean = torch.var_mean(groups, (2, 3, 4), keepdim=True, correction=0)
        h = ((groups - mean) / (var + 1e-5).sqrt()).flatten(1, 2)
        return h * w[f"{name}.weight"][:, None, None] + w[f"{name}.bias"][:, None, None]

    def resized(h):
        if resample == "down":
            return h.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).mean((3, 5))
        return h.repeat_interleave(2, 2).repeat_interleave(2, 3) if resample else h

    def conv(h, name, pad):
        return F.conv2d(h, w[f"{name}.weight"], w[f"{name}.bias"], padding=pad)

    h = conv(resized(F.silu(norm(x, "norm0"))), "conv0", 1)
    affine = (emb @ w["affine.weight"].T + w["affine.bias"])[:, :, None, None]
    h = norm(h, "norm1") * (1 + affine[:, :c_out]) + affine[:, c_out:]
    h = conv(F.silu(h), "conv1", 1)
    assert ("skip.weight" in w) == (c_out != 64)
    y = h + (conv(resized(x), "skip", 0) if "skip.weight" in w else resized(x))
    if attention:
        heads = []
        for qkv in conv(norm(y, "norm2"), "qkv", 0).flatten(2).split(192, dim=1):
            q, k, v = qkv[:, 0::3], qkv[:, 1::3], qkv[:, 2::3]
            p = (torch.einsum("bcq,bck->bqk", q, k) / 8).softmax(-1)
            heads.append(torch.einsum("bqk,bck->bcq", p, v))
        assert len(heads) == c_out // 64
        y = y + conv(torch.cat(heads, dim=1).reshape(y.shape), "proj", 0)
    assert torch.allclose(block(x, emb), y, atol=1e-9)


def test_time_runs_from_cosine_to_sine_and_the_label_joins_it_late():
    net, seen = shaken(ADM(8, 3, 64, (1,), 1, (8,), classes=5)), []
    net.enc["8x8_block0"].register_forward_hook(lambda _, args, out: seen.append(args[1]))
    x, c_noise = torch.randn(2, 3, 8, 8).double(), [-1.5, 0.5]
    net(x, torch.tensor(c_noise), torch.tensor([1, 4]))
    net(x, torch.tensor(c_noise))
    phase = torch.tensor([[c * 10 ** (-4 * j / 32) for j in range(32)] for c in c_noise]).double()
    emb = net.map_layer1(F.silu(net.map_layer0(torch.cat([phase.cos(), phase.sin()], dim=1))))
    assert torch.allclose(seen[0], F.silu(emb + net.map_label.weight.T[[1, 4]]), atol=1e-5)
    assert torch.allclose(seen[1], F.silu(emb), atol=1e-5)


def test_a_fresh_network_answers_zero():
    """Its last convolution starts at zero, and so does every branch; labels start at N(0, 1)."""
    torch.manual_seed(0)
    net = ADM(8, 3, 64, (1, 1), 1, (4,), classes=5).eval()
    assert math.isclose(net.map_label.weight.std().item(), 1.0, rel_tol=0.1)
    assert not net(torch.randn(2, 3, 8, 8), torch.zeros(2)).any()
    ends = [t for name, t in net.named_parameters() if name.split(".")[-2] in ("conv1", "proj", "out_conv")]
    assert len(ends) == 2 * (10 + 4 + 1) and not any(t.any() for t in ends)
    assert math.isclose(net.enc["8x8_conv"].weight.std().item(), (1 / 27 / 3) ** 0.5, rel_tol=0.05)
