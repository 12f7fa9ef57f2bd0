"""Guided denoisers against exact mixtures, where labels and classifiers are known in closed form."""

import copy
from dataclasses import replace

import pytest
import torch

from cdedu.checkpoints import Header
from cdedu.data import Dataset
from cdedu.fitting import conditioned
from cdedu.methods.guidance import ClassifierGuidedDenoiser, GuidedDenoiser, Labelled, with_null_labels
from cdedu.mixture import GaussianMixture
from cdedu.networks import UNet, unet
from cdedu.networks.guided import WeightedUNet
from cdedu.recipes import Network, get_recipe
from cdedu.samplers import sample_heun
from cdedu.student import ConsistencyModel
from cdedu.teacher import Teacher
from cdedu.training import distill

MEANS = torch.tensor([[-1.0, 0.0], [1.0, 0.5]])
ALL = GaussianMixture(MEANS, 0.3)
EACH = [GaussianMixture(MEANS[k : k + 1], 0.3) for k in range(2)]
NULL = 2


def labelled(x, sigma, labels):
    """The exact denoiser of each class, and of the mixture for the null label."""
    answers = torch.stack([d(x, sigma) for d in (*EACH, ALL)])
    return answers[labels, torch.arange(len(x))]


def classifier(x, sigma):
    """The exact posterior of the component behind a noisy x."""
    s2 = 0.3**2 + torch.as_tensor(sigma).reshape(-1, 1) ** 2
    return -(x[:, None] - MEANS).square().sum(-1) / (2 * s2)


def batch(n: int = 6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randn(n, 2, generator=g), 0.2 + torch.rand(n, generator=g), torch.arange(n) % 2


def test_weights_0_and_1_are_no_label_and_the_label():
    x, sigma, labels = batch()
    guided = GuidedDenoiser(labelled, None, NULL)
    assert torch.allclose(guided(x, sigma, labels=labels, guidance=0.0), ALL(x, sigma))
    assert torch.allclose(
        guided(x, sigma, labels=labels, guidance=1.0), labelled(x, sigma, labels), atol=1e-6
    )
    without, with_label = ALL(x, sigma), labelled(x, sigma, labels)
    assert torch.allclose(
        GuidedDenoiser(labelled, 3.0, NULL)(x, sigma, labels=labels), 3 * with_label - 2 * without, atol=1e-5
    )
    assert torch.allclose(guided(x, 0.5, labels=labels, guidance=1.0), labelled(x, 0.5, labels), atol=1e-6)


def test_each_sample_has_a_weight_of_its_own():
    x, sigma, labels = batch()
    guided, w = GuidedDenoiser(labelled, None, NULL), torch.linspace(0, 5, 6)
    together = guided(x, sigma, labels=labels, guidance=w)
    for i in range(6):
        part = slice(i, i + 1)
        alone = guided(x[part], sigma[part], labels=labels[part], guidance=float(w[i]))
        assert torch.allclose(together[part], alone, atol=1e-6)
    with pytest.raises(ValueError, match="each call must give one"):
        guided(x, sigma, labels=labels)
    with pytest.raises(ValueError, match="guidance has shape"):
        guided(x, sigma, labels=labels, guidance=w[:3])


def test_classifier_guidance_with_exact_parts_is_the_conditional_denoiser():
    """Bayes: the score of p(x|y) is that of p(x) plus the classifier's gradient. So w = 1 is exact, and both kinds agree."""
    x, sigma, labels = batch()
    for w in (0.0, 1.0, 2.5):
        by_classifier = ClassifierGuidedDenoiser(ALL, classifier, w)(x, sigma, labels=labels)
        free = GuidedDenoiser(labelled, w, NULL)(x, sigma, labels=labels)
        assert torch.allclose(by_classifier, free, atol=1e-5), w


def test_guided_denoisers_are_denoisers_for_samplers():
    g, labels = torch.Generator().manual_seed(1), torch.arange(200) % 2
    x = 80 * torch.randn(200, 2, generator=g)
    sigmas = get_recipe("toy").sigmas(10)
    for guided in (GuidedDenoiser(labelled, 2.0, NULL), ClassifierGuidedDenoiser(ALL, classifier, 2.0)):
        samples = sample_heun(guided, x, sigmas, labels=labels)
        nearest = (samples[:, None] - MEANS).norm(dim=-1).argmin(-1)
        assert not samples.requires_grad and (nearest == labels).float().mean() > 0.97


def test_a_guided_denoiser_knows_the_range_of_its_denoiser():
    class Narrow(torch.nn.Module):
        sigma_min, sigma_max = 0.01, 157.0

    guided = GuidedDenoiser(Narrow(), 2.0, 3)
    assert (guided.sigma_min, guided.sigma_max) == (0.01, 157.0)
    assert not hasattr(GuidedDenoiser(labelled, 2.0, NULL), "sigma_min")


def test_a_network_with_the_weight_fixed_is_the_one_that_takes_it():
    torch.manual_seed(0)
    free = WeightedUNet(unet(8, 1, (8, 16), classes=3)).eval()
    torch.nn.init.normal_(free.weight.weight)
    x, c_noise, labels = torch.randn(3, 1, 8, 8), torch.tensor([-100.0, 0.0, 900.0]), torch.arange(3)
    before = copy.deepcopy(free.state_dict())
    with torch.no_grad():
        for w in (0.0, 2.5):
            fixed = free.at(w)
            assert type(fixed) is UNet
            assert torch.allclose(fixed(x, c_noise, labels), free(x, c_noise, labels, guidance=w), atol=1e-5)
        assert not torch.allclose(
            fixed(x, c_noise, labels), free(x, c_noise, labels, guidance=0.0), atol=1e-3
        )
    assert all(t.equal(before[name]) for name, t in free.state_dict().items())


def test_labels_can_be_fixed_for_what_knows_of_none():
    x, sigma, _ = batch()
    fixed = Labelled(GuidedDenoiser(labelled, None, NULL), torch.tensor([0, 1, 1]), guidance=2.0)
    wanted = GuidedDenoiser(labelled, 2.0, NULL)(x, sigma, labels=fixed.labels.repeat(2))
    assert torch.equal(fixed(x, sigma), wanted) and sorted(fixed.labels.tolist()) == [0, 1, 1]


def test_labels_that_come_sorted_by_class_are_mixed_in_every_batch():
    """Held-out pictures in class folders come class by class; the first 500 would be airplanes alone."""
    asked = []
    fixed = Labelled(lambda x, s, labels: asked.append(labels) or x, torch.arange(10).repeat_interleave(1000))
    fixed(torch.zeros(500, 1), 1.0)
    assert asked[0].bincount(minlength=10).min() > 25


def test_null_labels_are_one_in_ten_of_each_sample():
    x = torch.arange(6.0).reshape(6, 1)
    data = with_null_labels(Dataset("d", x, x, torch.arange(6) % 2, None), NULL)
    assert data.train.shape == (60, 1) and (data.train_labels == NULL).sum() == 6
    for value in range(6):
        labels = data.train_labels[data.train[:, 0] == value]
        assert sorted(labels.tolist()) == sorted([value % 2] * 9 + [NULL])
    with pytest.raises(ValueError, match="has no labels"):
        with_null_labels(Dataset("d", x, x), NULL)


def guided_digits():
    torch.manual_seed(0)
    recipe = get_recipe("digits", network=Network("unet", width=8, depth=1, classes=3))
    recipe = replace(recipe, student=replace(recipe.student, steps=4, batch=8))
    teacher = Teacher(unet(8, 1, (8, 16), classes=3), noise_scale=250.0)
    g = torch.Generator().manual_seed(0)
    x = torch.randn(20, 1, 8, 8, generator=g)
    return recipe, teacher, Dataset("noise", x, x, torch.arange(20) % 2, None)


def test_a_guided_teacher_is_distilled_at_a_fixed_weight():
    recipe, teacher, data = guided_digits()
    seen = []

    class Watched(GuidedDenoiser):
        def forward(self, x, sigma, **cond):
            seen.append(set(cond))
            return super().forward(x, sigma, **cond)

    student = ConsistencyModel.from_teacher(teacher)
    for state in distill(recipe, Watched(teacher, 2.0, null=2), data, student=student):
        pass
    assert state.model is student and seen and all(keys == {"labels"} for keys in seen)


def test_the_weight_as_an_input_of_the_student():
    recipe, teacher, data = guided_digits()
    plain = ConsistencyModel.from_teacher(teacher)
    student = ConsistencyModel(WeightedUNet(teacher.network), noise_scale=250.0)
    x, sigma, labels = data.train[:4], torch.full((4,), 2.0), torch.tensor([0, 1, 2, 0])
    with torch.no_grad():  # at first the weight changes nothing
        for w in (0.0, 4.0, torch.rand(4)):
            assert torch.equal(student(x, sigma, labels=labels, guidance=w), plain(x, sigma, labels=labels))
    seen = []

    class Watched(GuidedDenoiser):
        def forward(self, x, sigma, **cond):
            seen.append(cond["guidance"])
            return super().forward(x, sigma, **cond)

    options = {"student": student, "guidance": (0.5, 4.0)}
    for state in distill(recipe, Watched(teacher, None, null=2), data, **options):
        pass
    weights = torch.cat(seen)
    assert weights.min() >= 0.5 and weights.max() <= 4 and weights.unique().numel() > 16
    with torch.no_grad():
        low, high = (student(x, sigma, labels=labels, guidance=w) for w in (0.5, 4.0))
    assert not torch.equal(low, high)
    assert torch.equal(teacher.network.net.conv_in.weight, plain.network.net.conv_in.weight)
    with pytest.raises(ValueError, match="takes no labels"):
        WeightedUNet(unet(8, 1, (8, 16)))


@pytest.mark.parametrize(
    ("labels", "guidance", "wanted"),
    [
        (10, None, 10),  # ten labels, and one that means none
        (11, 2.0, 10),  # a teacher that does not say so, guided by its last label
        (11, None, 11),  # eleven labels, all of which mean something
        (3, 2.0, 3),  # data with fewer labels than the network takes
    ],
)
def test_samples_are_drawn_of_labels_that_mean_something(labels, guidance, wanted):
    teacher = Teacher(torch.nn.Identity())
    teacher.header = Header((1, 8, 8), classes=11, labels=labels)
    assert conditioned(teacher, "it", guidance)[1]["labels"].tolist() == list(range(wanted))
