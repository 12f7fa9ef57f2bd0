"""Networks keep shapes, use labels and the noise level, and refuse what they cannot do."""

import pytest
import torch

from cdedu.networks import MLP, bounds, unet
from cdedu.recipes import Network, get_recipe


@pytest.mark.parametrize("dim, classes", [(1, 0), (2, 0), (5, 3)])
def test_mlp_keeps_shape_and_sees_noise_level_and_label(dim, classes):
    net, x = MLP(dim, 16, 2, classes), torch.randn(4, dim)
    labels = torch.tensor([0, 1, 2, 0]) if classes else None
    y = net(x, torch.full((4,), 0.3), labels)
    assert y.shape == x.shape
    assert not y.allclose(net(x, torch.full((4,), 0.9), labels))
    if classes:
        assert not y.allclose(net(x, torch.full((4,), 0.3), labels.flip(0)))


def test_mlp_embedding_is_cosines_and_sines_of_the_noise_level():
    net = MLP(2, 4, 1)
    net.layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    seen: list[torch.Tensor] = []
    net(torch.zeros(1, 2), torch.tensor([0.7]))
    angles = 0.7 * torch.arange(1.0, 9.0)
    assert torch.allclose(seen[0][0], torch.cat([torch.zeros(2), angles.cos(), angles.sin()]))


def test_unet_is_diffusers_and_keeps_shape():
    torch.manual_seed(0)
    net = unet(8, 1, widths=(8, 16), classes=3).eval()
    assert type(net.net).__name__ == "UNet2DModel"
    x, labels = torch.randn(2, 1, 8, 8), torch.tensor([0, 2])
    c_noise = torch.tensor([-900.0, 500.0])
    y = net(x, c_noise, labels)
    assert y.shape == x.shape
    assert y.equal(net.net(x, c_noise, class_labels=labels).sample)
    assert not y.allclose(net(x, c_noise, labels.flip(0)))
    assert not y.allclose(net(x, c_noise.flip(0), labels))


def test_unet_takes_attention_and_dropout():
    net = unet(8, 3, widths=(8, 32), attention=(False, True), dropout=0.5)
    assert any("Attention" in type(m).__name__ for m in net.modules())
    x = torch.randn(1, 3, 8, 8)
    assert not net.train()(x, torch.zeros(1)).equal(net(x, torch.zeros(1)))


@pytest.mark.parametrize(
    "widths, attention, head",
    [((8, 32), (True, True), 8), ((8, 16), (False, True), 16), ((16, 8), (True, False), 8), ((32, 96), (False, True), 32), ((64, 96), (True, True), 32)],
)  # fmt: skip
def test_attention_of_few_channels_has_one_head_and_not_none(widths, attention, head):
    net = unet(8, 3, widths=widths, attention=attention)
    found = [m for m in net.modules() if type(m).__name__ == "Attention"]
    assert found and all(m.heads == m.to_q.in_features // head and m.to_q.out_features for m in found)
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    net(x, torch.zeros(1)).sum().backward()
    assert all(m.to_v.weight.grad.abs().sum() > 0 for m in found)


@pytest.mark.parametrize("width, multipliers, height", [(32, (1, 2), 8), (8, (1, 2), 4), (16, (2, 3), 8)])
def test_attention_without_a_whole_head_is_refused(width, multipliers, height):
    with pytest.raises(
        ValueError, match=rf"attention at height {height} has \d+ channels, but a head of kind 'adm' takes 64"
    ):
        Network("adm", width, 1, multipliers, attention=(height,)).build((3, 8, 8))


def test_unet_refuses():
    with pytest.raises(ValueError, match="pictures of 9 × 9 cannot be halved 1 times"):
        unet(9)
    with pytest.raises(ValueError, match="divisible by 8"):
        unet(8, widths=(8, 12))


SIZES = {
    ("unet", 3, (16, 18)): "16 × 16 and 16 × 20",
    ("unet", 3, (18, 16)): "16 × 16 and 20 × 16",
    ("unet", 4, (7, 7)): "8 × 8",
    ("ddpmpp", 3, (33, 33)): "32 × 32 and 36 × 36",
    ("ncsnpp", 2, (5, 8)): "4 × 8 and 6 × 8",
    ("adm", 4, (64, 60)): "64 × 56 and 64 × 64",
    ("ddpmpp", 6, (28, 28)): "32 × 32",
    ("unet", 3, (16, 24)): None,
    ("adm", 2, (2, 64)): None,
}


@pytest.mark.parametrize("kind, levels, size", SIZES)
def test_a_size_that_a_network_cannot_halve_is_refused_with_the_next_ones(kind, levels, size):
    """Each size that is named is one that the network takes."""
    network = Network(kind, 8, 1, (1,) * levels)
    wanted = SIZES[kind, levels, size]
    if wanted is None:
        return network.check((3, *size))
    words = f"pictures of {size[0]} × {size[1]} cannot be halved {levels - 1} times, .*: {wanted}$"
    for refuse in (network.check, network.build):
        with pytest.raises(ValueError, match=words):
            refuse((3, *size))
    for other in wanted.split(" and "):
        network.check((3, *map(int, other.split(" × "))))


def test_a_recipe_refuses_pictures_that_its_network_cannot_halve():
    with pytest.raises(ValueError, match="28 × 28 cannot be halved 5 times, .*: 32 × 32$"):
        get_recipe("lsun256").network.check((3, 28, 28))


@pytest.mark.parametrize("kind", ["unet", "ddpmpp", "ncsnpp", "adm"])
@torch.no_grad()
def test_a_network_of_a_rectangle_has_the_weights_of_a_square_one(kind):
    """16 × 24 goes through at its own size, by the weights of a network for 16 × 16; attention is named by the height."""
    torch.manual_seed(0)
    plan = Network(kind, 64 if kind == "adm" else 32, 1, (1, 1), attention=(8,))
    square, wide = plan.build((3, 16, 16)).eval(), plan.build((3, 16, 24)).eval()
    for p in square.parameters():
        torch.nn.init.normal_(p, std=0.2)
    wide.load_state_dict(square.state_dict())
    x, c = torch.randn(1, 3, 16, 24), torch.zeros(1)
    y = wide(x, c)
    assert y.shape == x.shape and torch.allclose(square(x, c), y)
    assert not torch.allclose(wide(x[..., :16], c), y[..., :16], atol=1e-3)


@pytest.mark.parametrize(
    "key, value",
    [
        ("norm_eps", "x"),
        ("norm_eps", -1e-5),
        ("mid_block_scale_factor", [1]),
        ("freq_shift", {}),
        ("dropout", 2),
    ],
)
def test_a_configuration_of_diffusers_has_numbers_where_it_computes_with_them(key, value):
    config = dict(unet(8, 1, (8, 16)).net.config)
    bounds.check_unet(config)
    with pytest.raises(ValueError, match=f"{key} = .*, but it must be a number from"):
        bounds.check_unet(config | {key: value})
