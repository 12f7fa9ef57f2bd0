"""Networks keep shapes, use labels and the noise level, and refuse what they cannot do."""

import pytest
import torch

from cdedu.networks import MLP, unet


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


def test_unet_refuses():
    with pytest.raises(ValueError, match="size = 9 cannot be halved 1 times"):
        unet(9)
    with pytest.raises(ValueError, match="divisible by 8"):
        unet(8, widths=(8, 12))
