"""DDPM++, NCSN++ and ADM against a second, short implementation written by hand, and EDM's names of their tensors."""

import math

import pytest
import torch
from torch.nn import functional as F

from cdedu.networks import set_dropout
from cdedu.networks.edm import ADM, Block, Conv, DDPMpp, FourierEmbedding, ImageDown, TimeEmbedding
from cdedu.teacher import Teacher


def shaken(module: torch.nn.Module) -> torch.nn.Module:
    """Weights large enough for every branch to matter."""
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=g) + (p if p.ndim == 1 else 0))
    return module.double().eval()


def small(**options) -> DDPMpp:
    return DDPMpp(8, 3, 8, (1, 2), 1, **({"attention": (4,)} | options))


@pytest.fixture(scope="module")
def full() -> DDPMpp:
    with torch.device("meta"):
        return DDPMpp()


def test_the_default_has_the_parameters_of_edms(full):
    assert sum(p.numel() for p in full.parameters()) == 55_732_739
    with torch.device("meta"):
        assert sum(p.numel() for p in DDPMpp(classes=10).parameters()) == 55_732_739 + 11 * 128


GOLDEN = {
    "map_layer0.weight": (512, 128),
    "map_layer1.bias": (512,),
    "enc.32x32_conv.weight": (128, 3, 3, 3),
    "enc.32x32_block0.conv0.weight": (256, 128, 3, 3),
    "enc.32x32_block0.skip.weight": (256, 128, 1, 1),
    "enc.16x16_down.skip.weight": (256, 256, 1, 1),
    "enc.16x16_block3.qkv.weight": (768, 256, 1, 1),
    "enc.8x8_block3.affine.weight": (256, 512),
    "dec.8x8_in0.proj.weight": (256, 256, 1, 1),
    "dec.8x8_block0.norm0.weight": (512,),
    "dec.16x16_up.conv0.weight": (256, 256, 3, 3),
    "dec.16x16_block4.norm2.bias": (256,),
    "dec.32x32_block4.skip.weight": (256, 384, 1, 1),
    "dec.32x32_aux_norm.weight": (256,),
    "dec.32x32_aux_conv.weight": (3, 256, 3, 3),
}


def test_tensors_are_called_and_shaped_as_in_edms_checkpoints(full):
    shapes = {name: tuple(t.shape) for name, t in full.state_dict().items()}
    assert GOLDEN.items() <= shapes.items()
    absent = ("enc.32x32_block0.qkv.weight", "dec.8x8_in1.qkv.weight", "enc.32x32_block1.skip.weight")
    assert not {*absent, "dec.16x16_block3.qkv.weight", "map_label.weight"} & {*shapes}
    assert {name.split(".")[0] for name in shapes} == {"map_layer0", "map_layer1", "enc", "dec"}


def test_the_time_embedding_runs_from_sine_to_cosine_with_both_ends():
    for c in (0.0, -1.55, 1.095):
        sines = [math.sin(c * 10 ** (-4 * j / 7)) for j in range(8)]
        cosines = [math.cos(c * 10 ** (-4 * j / 7)) for j in range(8)]
        got = TimeEmbedding(16)(torch.tensor([c]))[0]
        assert torch.allclose(got, torch.tensor(sines + cosines), atol=1e-6)
    assert TimeEmbedding(16)(torch.tensor([0.5]).bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("resample", ["", "down", "up"])
@pytest.mark.parametrize("wider", [1, 2])
@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("adm", [False, True])
def test_a_block_is_edms(resample, wider, attention, adm):
    c_in, scale, eps = (64, 1, 1e-5) if adm else (4, math.sqrt(0.5), 1e-6)
    c_out = wider * c_in
    block = shaken(Block(c_in, c_out, 6, 0.5, attention, resample, adm=adm))
    if adm:  # many channels: smaller weights, so that its softmax is not all or nothing
        block.load_state_dict({k: 0.2 * t if t.ndim > 1 else t for k, t in block.state_dict().items()})
    w = block.state_dict()
    g = torch.Generator().manual_seed(1)
    x, emb = torch.randn(2, c_in, 6, 6, generator=g).double(), torch.randn(2, 6, generator=g).double()

    def norm(h, name):
        groups = h.unflatten(1, (min(32, h.shape[1] // 4), -1))
        mean = groups.mean((2, 3, 4), keepdim=True)
        groups = (groups - mean) / (((groups - mean) ** 2).mean((2, 3, 4), keepdim=True) + eps).sqrt()
        return groups.flatten(1, 2) * w[f"{name}.weight"][:, None, None] + w[f"{name}.bias"][:, None, None]

    def resized(h):
        if resample == "down":
            return h.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).mean((3, 5))
        return h.repeat_interleave(2, 2).repeat_interleave(2, 3) if resample else h

    def conv(h, name, pad):
        return F.conv2d(h, w[f"{name}.weight"], w[f"{name}.bias"], padding=pad)

    def silu(h):
        return h / (1 + (-h).exp())

    h = conv(resized(silu(norm(x, "norm0"))), "conv0", 1)
    affine = (emb @ w["affine.weight"].T + w["affine.bias"])[:, :, None, None]
    if adm:
        h = norm(h, "norm1") * (1 + affine[:, :c_out]) + affine[:, c_out:]
    else:
        h = norm(h + affine, "norm1")
    h = conv(silu(h), "conv1", 1)
    assert ("skip.weight" in w) == (wider == 2 or (bool(resample) and not adm))
    y = (h + (conv(resized(x), "skip", 0) if "skip.weight" in w else resized(x))) * scale
    if attention:
        heads = []
        for qkv in conv(norm(y, "norm2"), "qkv", 0).flatten(2).split(192 if adm else 3 * c_out, dim=1):
            q, k, v = qkv[:, 0::3], qkv[:, 1::3], qkv[:, 2::3]
            a = (torch.einsum("bcq,bck->bqk", q, k) / math.sqrt(q.shape[1])).softmax(-1)
            heads.append(torch.einsum("bqk,bck->bcq", a, v))
        assert len(heads) == (c_out // 64 if adm else 1)
        y = (y + conv(torch.cat(heads, 1).reshape(y.shape), "proj", 0)) * scale
    assert torch.allclose(block(x, emb), y, atol=1e-9)


def test_the_whole_network_adds_its_skips_in_the_order_of_the_encoder():
    """Each decoder block takes the output of the encoder layer that mirrors it, then labels and time reach every block."""
    net = shaken(small(classes=5))
    seen = {}
    for name, layer in [*net.enc.items(), *net.dec.items()]:
        half = "enc" if layer in net.enc.values() else "dec"
        layer.register_forward_hook(
            lambda _, args, out, key=f"{half}.{name}": seen.update({key: (args, out)})
        )
    x, labels = torch.randn(2, 3, 8, 8).double(), torch.tensor([1, 4])
    c_noise = torch.tensor([-1.0, 0.5]).double()
    net(x, c_noise, labels)
    order = ["8x8_conv", "8x8_block0", "4x4_down", "4x4_block0"]
    takes = ["4x4_block0", "4x4_block1", "8x8_block0", "8x8_block1"]
    for name, partner in zip(takes, reversed(order), strict=True):
        assert seen[f"dec.{name}"][0][0][:, -seen[f"enc.{partner}"][1].shape[1] :].equal(
            seen[f"enc.{partner}"][1]
        )
    one_hot = F.one_hot(labels, 5).double() * math.sqrt(5)
    emb = net.map_noise(c_noise) + one_hot @ net.map_label.weight.T + net.map_label.bias
    emb = F.silu(net.map_layer1(F.silu(net.map_layer0(emb))))
    assert all(torch.allclose(args[1], emb) for args, _ in seen.values() if len(args) == 2)


def test_no_label_is_a_row_of_zeros():
    net = shaken(small(classes=5))
    x, c_noise = torch.randn(2, 3, 8, 8).double(), torch.zeros(2).double()
    plain = net(x, c_noise)
    assert not plain.allclose(net(x, c_noise, torch.tensor([0, 0])))
    with torch.no_grad():
        net.map_label.weight.zero_()
    assert plain.allclose(net(x, c_noise)) and plain.allclose(net(x, c_noise, torch.tensor([3, 0])))


def test_a_fresh_network_answers_with_its_skip():
    """The last convolution starts near zero, so that D(x, σ) starts as c_skip x."""
    torch.manual_seed(0)
    teacher, x = Teacher(small()).eval(), torch.randn(4, 3, 8, 8)
    for sigma in (0.1, 1.0, 10.0):
        assert torch.allclose(teacher(sigma * x, sigma), 0.25 / (sigma**2 + 0.25) * sigma * x, atol=1e-3)


def test_dropout_is_off_in_evaluation_and_can_be_set_anew():
    net = shaken(small(dropout=0.4)).float()
    x, c_noise = torch.randn(2, 3, 8, 8), torch.zeros(2)
    assert net(x, c_noise).equal(net(x, c_noise)) and not net.train()(x, c_noise).equal(net(x, c_noise))
    set_dropout(net, 0.0)
    assert net(x, c_noise).equal(net(x, c_noise))


# NCSN++


def test_ncsnpp_has_the_parameters_and_tensors_of_edms():
    with torch.device("meta"):
        net = DDPMpp(ncsn=True)
    assert sum(p.numel() for p in net.parameters()) == 56_395_523
    shapes = {name: tuple(t.shape) for name, t in net.state_dict().items()}
    assert {
        "map_noise.freqs": (128,),
        "map_layer0.weight": (512, 256),
        "enc.16x16_aux_residual.weight": (256, 3, 3, 3),
        "enc.8x8_aux_residual.weight": (256, 256, 3, 3),
        "enc.8x8_aux_residual.resample_filter": (1, 1, 4, 4),
        "enc.16x16_down.skip.resample_filter": (1, 1, 4, 4),
        "dec.32x32_up.conv0.resample_filter": (1, 1, 4, 4),
    }.items() <= shapes.items()


FILTER = torch.tensor([1.0, 3, 3, 1]).double() / 8


def smoothly(x, resample):
    """Half or double the resolution, pixel by pixel; zeros surround the image."""
    b, c, n, _ = x.shape
    if resample == "down":
        matrix = torch.zeros(n // 2, n).double()  # one row for each new pixel
        for i in range(n // 2):
            for j in range(4):
                if 0 <= 2 * i - 1 + j < n:
                    matrix[i, 2 * i - 1 + j] = FILTER[j]
    else:
        matrix = torch.zeros(2 * n, n).double()
        for i in range(n):
            for j in range(4):
                if 0 <= 2 * i - 1 + j < 2 * n:
                    matrix[2 * i - 1 + j, i] = 2 * FILTER[j]
    return torch.einsum("ih,jw,bchw->bcij", matrix, matrix, x)


@pytest.mark.parametrize("resample", ["down", "up"])
def test_ncsnpps_filter_is_smooth_in_both_directions(resample):
    conv, x = shaken(Conv(4, 6, 3, resample, smooth=True)), torch.randn(2, 4, 6, 6).double()
    want = F.conv2d(smoothly(x, resample), conv.weight, conv.bias, padding=1)
    assert torch.allclose(conv(x), want, atol=1e-10)


def test_the_image_goes_down_by_a_convolution_and_then_the_filter():
    """The filter meets what the convolution makes beyond the edge, not zeros."""
    down, x = shaken(ImageDown(3, 6)), torch.randn(2, 3, 8, 8).double()
    wide = F.conv2d(x, down.weight, down.bias, padding=3)
    assert torch.allclose(down(x), smoothly(wide, "down")[:, :, 1:-1, 1:-1], atol=1e-10)


def test_the_image_joins_the_features_and_goes_on_with_them():
    net, seen = shaken(small(ncsn=True)), {}
    for name, layer in net.enc.items():
        layer.register_forward_hook(lambda _, args, out, key=name: seen.update({key: (args[0], out)}))
    net.dec["4x4_block1"].register_forward_hook(lambda _, args, out: seen.update(last=args[0]))
    x = torch.randn(2, 3, 8, 8).double()
    net(x, torch.zeros(2).double())
    image, joined = seen["4x4_aux_residual"]
    assert image.equal(x)
    joined = (seen["4x4_down"][1] + joined) / math.sqrt(2)
    assert torch.allclose(seen["4x4_block0"][0], joined)
    assert torch.allclose(seen["last"][:, -joined.shape[1] :], joined)  # the decoder gets the sum, too


def test_fourier_features_are_sines_and_cosines_of_fixed_frequencies():
    embedding = FourierEmbedding(4)
    embedding.freqs.copy_(torch.tensor([0.25, 16.0]))
    for c in (-1.55, 0.3):
        want = [math.sin(math.pi / 2 * c), math.sin(32 * math.pi * c), math.cos(math.pi / 2 * c)]
        want.append(math.cos(32 * math.pi * c))
        assert torch.allclose(embedding(torch.tensor([c]))[0], torch.tensor(want), atol=1e-4)
    assert 12 < float(FourierEmbedding(4096).freqs.std()) < 20


# ADM


GOLDEN_ADM = {
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
    assert GOLDEN_ADM.items() <= shapes.items()
    absent = ("map_label.bias", "enc.32x32_down.skip.weight", "dec.32x32_up.skip.weight")
    assert not {*absent, "enc.64x64_block0.qkv.weight", "dec.64x64_block3.qkv.weight"} & {*shapes}


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


def test_a_fresh_adm_answers_zero():
    """Its last convolution starts at zero, and so does every branch; labels start at N(0, 1)."""
    torch.manual_seed(0)
    net = ADM(8, 3, 64, (1, 1), 1, (4,), classes=5).eval()
    assert math.isclose(net.map_label.weight.std().item(), 1.0, rel_tol=0.1)
    assert not net(torch.randn(2, 3, 8, 8), torch.zeros(2)).any()
    ends = [t for name, t in net.named_parameters() if name.split(".")[-2] in ("conv1", "proj", "out_conv")]
    assert len(ends) == 2 * (10 + 4 + 1) and not any(t.any() for t in ends)
    assert math.isclose(net.enc["8x8_conv"].weight.std().item(), (1 / 27 / 3) ** 0.5, rel_tol=0.05)
