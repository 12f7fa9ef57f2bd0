"""Clips: made as promised, frames in their places from noise to sample, and measures that see what they should."""

from dataclasses import replace

import pytest
import torch

import cdedu
from cdedu.course.measures.video import ClipRuler, jitter, speed
from cdedu.data import Dataset, digits
from cdedu.data.video import (
    DIRECTIONS,
    FrameByFrame,
    as_frames,
    centre_of_mass,
    crops,
    moving_digits,
    single_frames,
)
from cdedu.mixture import GaussianMixture
from cdedu.networks import unet
from cdedu.networks.video import TimeLayer, VideoUNet
from cdedu.recipes import recipes
from cdedu.training import distill

RECIPE = recipes["clips"]
DATA = moving_digits()


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# --- data --------------------------------------------------------------------------------------------


def test_each_digit_glides_in_each_direction_without_losing_ink():
    plain = digits()
    assert DATA.train.shape == (8 * 1197, 6, 14, 14) and DATA.test.shape == (600, 6, 14, 14)
    ink = (DATA.train + 1).sum((2, 3))
    torch.testing.assert_close(
        ink, (plain.train + 1).sum((1, 2, 3)).repeat_interleave(8)[:, None].expand(-1, 6)
    )
    steps = centre_of_mass(DATA.train[:800]).diff(dim=1)
    torch.testing.assert_close(
        steps, DIRECTIONS.float().repeat(100, 1)[:, None].expand_as(steps), atol=2e-2, rtol=0
    )
    assert torch.equal(DATA.train_labels, plain.train_labels.repeat_interleave(8))
    assert torch.equal(DATA.test_labels, plain.test_labels)


def test_the_starting_points_use_the_room_there_is():
    start = centre_of_mass(DATA.train[:800, :1])[:, 0]
    still_rows = start[DIRECTIONS.repeat(100, 1)[:, 0] == 0, 0]
    assert still_rows.max() - still_rows.min() > 6


def test_data_are_the_same_each_time_and_follow_the_seed():
    again, other = moving_digits(), moving_digits(seed=1)
    assert torch.equal(DATA.train, again.train) and torch.equal(DATA.test, again.test)
    assert not torch.equal(DATA.test, other.test)


# --- order and number of frames ----------------------------------------------------------------------


def test_frames_come_out_of_a_batch_in_the_order_of_their_clips():
    clips = torch.arange(3 * 4.0).reshape(3, 4, 1, 1).expand(-1, -1, 2, 2)
    assert as_frames(clips)[:, 0, 0, 0].tolist() == list(range(12))
    assert torch.equal(as_frames(clips).reshape(clips.shape), clips)
    assert single_frames(Dataset("d", clips, clips)).train.shape == (12, 1, 2, 2)


class Labelled(torch.nn.Module):
    """A denoiser of pictures that adds the noise level of each and halves the picture."""

    def forward(self, x, sigma, **cond):
        return x / 2 + (sigma.reshape(-1, 1, 1, 1) if isinstance(sigma, torch.Tensor) else sigma)


def test_frame_by_frame_each_frame_has_its_own_clips_noise_level():
    x, sigma = torch.randn(3, 4, 2, 2, generator=seeded()), torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(FrameByFrame(Labelled())(x, sigma), x / 2 + sigma[:, None, None, None])
    torch.testing.assert_close(FrameByFrame(Labelled())(x, 5.0), x / 2 + 5)


def test_sampling_keeps_the_order_and_the_number_of_frames():
    means = torch.arange(5.0)[None, :, None, None].expand(1, 5, 3, 3) / 5  # frame t is t/5 all over
    clip = GaussianMixture(means, 0.01)
    z = 80 * torch.randn(6, 5, 3, 3, generator=seeded())
    for levels in ((80.0,), (80.0, 1.0, 0.5)):
        out = cdedu.sample_consistency(clip.consistency, z, levels, seeded(1))
        assert out.shape == z.shape
        torch.testing.assert_close(out.mean((0, 2, 3)), means[0, :, 0, 0], atol=0.02, rtol=0)


def test_a_distilled_student_of_clips_has_the_teachers_frames():
    small = replace(
        RECIPE, network=replace(RECIPE.network, width=8, multipliers=(1,)),
        student=replace(RECIPE.student, steps=2, batch=4),
    )  # fmt: skip
    teacher = cdedu.Teacher(small.network.build((6, 14, 14)), noise_scale=250.0)
    *_, state = distill(small, teacher, DATA)
    z = 80 * torch.randn(2, 6, 14, 14, generator=seeded())
    out = cdedu.sample_consistency(state.result, z, (80.0, 1.0), seeded(1))
    assert out.shape == z.shape and out.isfinite().all()
    with pytest.raises(ValueError, match=r"want clips \(B, 6, H, W\)"):  # another number is another network
        cdedu.sample_consistency(state.result, z[:, :5])


# --- a network for pictures, with layers for time ----------------------------------------------------


def picture_teacher():
    torch.manual_seed(0)
    return cdedu.Teacher(recipes["frames"].network.build((1, 14, 14)), noise_scale=250.0)


def awake(teacher, frames=6):
    """With layers for time that do something."""
    clips = cdedu.Teacher(VideoUNet(teacher.network.net, frames), noise_scale=250.0)
    for module in clips.modules():
        if isinstance(module, TimeLayer):
            torch.nn.init.normal_(module.last.weight, std=0.1)
    return clips


def test_before_training_it_is_the_network_for_pictures_frame_by_frame():
    pictures, x = picture_teacher(), torch.randn(3, 6, 14, 14, generator=seeded())
    clips = cdedu.Teacher(VideoUNet(pictures.network.net, 6), noise_scale=250.0)
    sigma = torch.tensor([0.1, 1.0, 10.0])
    expected = FrameByFrame(pictures)(x, sigma)
    torch.testing.assert_close(clips(x, sigma), expected)
    assert (awake(pictures)(x, sigma) - expected).abs().mean() > 1e-3
    torch.testing.assert_close(FrameByFrame(pictures)(x, sigma), expected)  # what it was made of is untouched


def test_a_frame_hears_of_all_frames_of_its_own_clip_and_of_no_other():
    clips, x = awake(picture_teacher()), torch.randn(2, 6, 14, 14, generator=seeded())
    for frame in range(6):
        other = x.clone()
        other[0, frame] += torch.randn(14, 14, generator=seeded(1))
        change = (clips(other, 1.0) - clips(x, 1.0)).abs().sum((2, 3))
        assert (change[0] > 1e-3).all() and (change[1] < 1e-3).all()


def test_a_time_layer_is_a_small_network_at_each_place():
    torch.manual_seed(0)
    layer, h = TimeLayer(8, frames=3, width=5), torch.randn(2 * 3, 8, 4, 4, generator=seeded())
    torch.nn.init.normal_(layer.last.weight)
    seen = layer.norm(h).reshape(2, 3 * 8, 4, 4)[1, :, 2, 3]
    first, last = layer.first.weight[..., 0, 0], layer.last.weight[..., 0, 0]
    told = last @ torch.nn.functional.silu(first @ seen + layer.first.bias) + layer.last.bias
    torch.testing.assert_close(layer(h)[3:, :, 2, 3].flatten(), h[3:, :, 2, 3].flatten() + told)


def test_the_network_for_clips_is_loaded_as_it_was_saved(tmp_path):
    clips, x = awake(picture_teacher()), torch.randn(2, 6, 14, 14, generator=seeded())
    cdedu.save(tmp_path / "clips.safetensors", clips, RECIPE, (6, 14, 14))
    torch.testing.assert_close(cdedu.load(tmp_path / "clips.safetensors")(x, 2.0), clips(x, 2.0))


# --- the noise of a clip -----------------------------------------------------------------------------


def test_a_still_clip_is_read_like_one_frame_with_less_noise():
    picture = GaussianMixture(torch.randn(5, 3, 3, generator=seeded()), 0.0)
    still = GaussianMixture(picture.means[:, None].expand(-1, 9, -1, -1), 0.0)
    x = torch.randn(4, 9, 3, 3, generator=seeded(1))
    guess = still(x, 2.0)
    torch.testing.assert_close(
        guess, picture(x.mean(1), 2.0 / 3)[:, None].expand_as(guess), atol=1e-4, rtol=1e-4
    )


# --- measures ----------------------------------------------------------------------------------------


def test_speed_and_jitter_by_hand():
    uniform = torch.arange(5.0)[None, :, None] * torch.tensor([3.0, 4.0])
    torch.testing.assert_close(speed(uniform), torch.tensor([5.0]))
    torch.testing.assert_close(jitter(uniform), torch.tensor([0.0]))
    back_and_forth = torch.tensor([0.0, 1.0, 0.0, 1.0])[None, :, None]
    torch.testing.assert_close(speed(back_and_forth), torch.tensor([1.0]))
    torch.testing.assert_close(jitter(back_and_forth), torch.tensor([2.0]))


def test_real_clips_glide_and_shuffled_ones_do_not():
    ruler = ClipRuler(DATA)
    real = ruler.measure(DATA.test)
    assert (
        real["jitter"] < 0.01
        and real["kept"] > 0.99
        and 1 < real["speed"] < 1.42
        and real["directions"] > 7.8
    )
    order = torch.randperm(3600, generator=seeded())
    mixed = ruler.measure(as_frames(DATA.test)[order].reshape(DATA.test.shape))
    assert mixed["jitter"] > 3 and mixed["kept"] < 0.5 and mixed["fd"] < 60
    still = ruler.measure(DATA.test[:, :1].expand(-1, 6, -1, -1))
    assert still["jitter"] == still["speed"] == 0 and still["kept"] == 1 and still["directions"] == 1


def test_crops_follow_the_digit():
    ink, cropped = DATA.test + 1, crops(DATA.test) + 1
    assert cropped.shape == (600, 6, 8, 8)
    assert (cropped.sum((2, 3)) / ink.sum((2, 3))).mean() > 0.98


def test_a_breath_of_grey_does_not_pull_the_centre():
    grey = DATA.test.clamp(min=-0.9)
    torch.testing.assert_close(centre_of_mass(grey), centre_of_mass(DATA.test), atol=0.35, rtol=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: moving_digits(frames=1), "at least 2"),
        (lambda: moving_digits(frames=8), "use size = 15 or fewer frames"),
        (lambda: as_frames(torch.zeros(2, 3, 4)), r"want \(B, T, H, W\)"),
        (lambda: centre_of_mass(torch.zeros(2, 3, 4)), r"want \(B, T, H, W\)"),
        (lambda: jitter(torch.zeros(2, 1, 2)), r"a video of 1 frame\(s\) has no change of velocity to measure; give at least 3"),
        (lambda: jitter(torch.zeros(2, 2, 2)), "at least 3"),
        (lambda: speed(torch.zeros(2, 1, 2)), "no speed to measure; give at least 2"),
        (lambda: speed(torch.zeros(2, 2)), r"shape \(B, T, d\)"),
        (lambda: ClipRuler(DATA).measure(DATA.test[:10]), "10 clips, but 600 real ones"),
        (lambda: replace(RECIPE.network, classes=3).build((6, 14, 14)), "a network for clips takes no labels"),
        (lambda: VideoUNet(unet(14, 3, (8,)).net, 6), "takes pictures of 3 channels, want gray ones"),
    ],
)  # fmt: skip
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
