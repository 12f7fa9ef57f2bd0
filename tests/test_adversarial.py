"""Adversarial distillation: each gradient goes where it should and nowhere else, and the losses are their formulas."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from cdedu.checkpoints import load_state, save_state
from cdedu.data import Dataset
from cdedu.methods.adversarial import (
    Discriminator,
    Features,
    adversarial_loss,
    discriminator_loss,
    renoised_distillation_loss,
    train_adversarial,
)
from cdedu.methods.dmd import matching_gradient, matching_loss, train_matching
from cdedu.mixture import GaussianMixture
from cdedu.networks import MLP
from cdedu.networks.classifiers import DigitsClassifier
from cdedu.recipes import Network, Recipe, StudentStage
from cdedu.student import ConsistencyModel
from cdedu.teacher import Teacher
from cdedu.training import distill

X = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
Z = torch.randn(6, 2, generator=torch.Generator().manual_seed(1))
DATA = Dataset("some", X, X)
RECIPE = Recipe("some", "some", Network(width=8, depth=1), student=StudentStage(steps=2, batch=6, lr=1e-2))
LAYERS = ["network.layers.1"]


def some_teacher(seed=0):
    torch.manual_seed(seed)
    return Teacher(MLP(width=8, depth=1))


class Itself(nn.Module):
    """Features that are x, and nothing to learn."""

    def forward(self, x):
        return [x]


class Line(nn.Module):
    """A discriminator without features of its own: S(x) = a·x + b."""

    def __init__(self, a, b):
        super().__init__()
        self.features, self.line = Itself(), nn.Linear(2, 1)
        self.line.weight.data, self.line.bias.data = torch.tensor([a]), torch.tensor([b])

    def score(self, found, level=None):
        return self.line(found[0])[:, 0]

    def forward(self, x, level=None):
        return self.score(self.features(x))


def test_hinge_and_penalty_by_hand():
    line = Line([3.0, 4.0], 0.5)
    real, fake = torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([[-1.0, 0.0], [0.0, 1.0]])
    # S: real .5 and 3.5, fake −2.5 and 4.5; the slope is 5 everywhere.
    torch.testing.assert_close(discriminator_loss(line, real, fake, 0.0), torch.tensor([0.5, 5.5]))
    torch.testing.assert_close(
        discriminator_loss(line, real, fake, 0.2), torch.tensor([0.5 + 2.5, 5.5 + 2.5])
    )
    torch.testing.assert_close(adversarial_loss(line, fake), torch.tensor([2.5, -4.5]))


def test_the_penalty_flattens_the_heads():
    line = Line([3.0, 4.0], 0.0)
    far = torch.tensor([[1.0, 1.0]])  # beyond both hinges, so only the penalty is left
    discriminator_loss(line, far, -far, 0.2).sum().backward()
    torch.testing.assert_close(line.line.weight.grad, 0.2 * torch.tensor([[3.0, 4.0]]))


def test_the_penalty_sees_the_features_and_not_the_pixels():
    class Stretched(Itself):
        def forward(self, x):
            return [10 * x]

    line = Line([3.0, 4.0], 0.0)
    line.features = Stretched()
    far = torch.ones(1, 2)
    torch.testing.assert_close(discriminator_loss(line, far, -far, 0.2), torch.tensor([2.5]))


def touched(module):
    return [name for name, p in module.named_parameters() if p.grad is not None]


def test_the_discriminators_step_reaches_its_heads_only():
    student, critic = (
        ConsistencyModel.from_teacher(some_teacher()),
        Discriminator(Features(some_teacher(), LAYERS, 0.1), (2,), 4),
    )
    fake = student(X + Z, 1.0)
    discriminator_loss(critic, X, fake, 0.1).sum().backward()
    assert not touched(student)
    assert touched(critic) == [name for name, _ in critic.named_parameters() if name.startswith("heads")]


def test_the_students_step_reaches_the_student_only():
    teacher = some_teacher()
    student, critic = (
        ConsistencyModel.from_teacher(teacher),
        Discriminator(Features(teacher, LAYERS, 0.1), (2,), 4),
    )
    fake = student(X + Z, 1.0)
    loss = adversarial_loss(critic, fake) + renoised_distillation_loss(teacher, fake, torch.ones(6), noise=Z)
    loss.sum().backward()
    assert len(touched(student)) == len(list(student.parameters()))
    assert not touched(critic) and not touched(teacher)


def test_the_adversarial_gradient_is_that_of_the_score():
    critic, x = Discriminator(Features(some_teacher(), LAYERS, 0.1), (2,), 4), X.clone().requires_grad_()
    (g,) = torch.autograd.grad(adversarial_loss(critic, x).sum(), x)
    (score,) = torch.autograd.grad(critic(x).sum(), x)
    torch.testing.assert_close(g, -score)
    assert g.abs().sum() > 0


def test_noise_is_put_back_onto_the_students_sample():
    seen = []

    def teacher(x, sigma):
        seen.append((x, sigma, torch.is_grad_enabled()))
        return torch.zeros_like(x)

    sigma, fake = torch.linspace(0.5, 3, 6), (5 * X).requires_grad_()
    loss = renoised_distillation_loss(teacher, fake, sigma, noise=Z)
    torch.testing.assert_close(seen[0][0], 5 * X + sigma[:, None] * Z)
    assert torch.equal(seen[0][1], sigma) and not seen[0][2]
    torch.testing.assert_close(loss, (5 * X).square().mean(1) / (1 + sigma**2).sqrt())
    (g,) = torch.autograd.grad(loss.sum(), fake)
    torch.testing.assert_close(
        g, 5 * X / (1 + sigma[:, None] ** 2).sqrt()
    )  # 2/dim = 1; none through the teacher


def test_no_gradient_passes_through_a_teacher_that_answers_with_its_input():
    fake = X.clone().requires_grad_()
    loss = renoised_distillation_loss(lambda x, s: 3 * x, fake, torch.ones(6), noise=torch.zeros(6, 2))
    (g,) = torch.autograd.grad(loss.sum(), fake)
    torch.testing.assert_close(g, -2 * X / 2**0.5)


def test_features_are_the_layers_and_let_the_gradient_through():
    teacher, x = some_teacher(), X.clone().requires_grad_()
    found = Features(teacher, [*LAYERS, "network"], 0.1)(x)
    assert [f.shape for f in found] == [(6, 8), (6, 2)]
    c_noise = 0.25 * torch.full((6,), 0.1).log()
    torch.testing.assert_close(found[1], teacher.network(x / (0.1**2 + 0.5**2) ** 0.5, c_noise))
    assert torch.autograd.grad(found[0].sum(), x)[0].abs().sum() > 0


def test_features_of_a_classifier():
    found = Features(DigitsClassifier(), ["body.5", "body.8"])(torch.zeros(3, 1, 8, 8))
    assert [f.shape for f in found] == [(3, 1024), (3, 64)]


def test_each_noise_level_has_a_score_of_its_own():
    critic = Discriminator(Features(some_teacher(), LAYERS, 0.1), (2,), 4, levels=3)
    level = torch.tensor([0, 1, 2, 2, 1, 0])
    alone = torch.stack([critic(X, torch.full((6,), k)) for k in range(3)])
    torch.testing.assert_close(critic(X, level), alone[level, torch.arange(6)])
    assert torch.equal(critic(X), alone[0]) and not torch.equal(alone[0], alone[1])
    discriminator_loss(critic, X, Z, 0.1, torch.ones(6, dtype=torch.long)).sum().backward()
    grad = critic.heads[0][2].weight.grad
    assert grad[1].any() and not grad[[0, 2]].any()


def run(**changes):
    teacher = some_teacher()
    before = {name: p.clone() for name, p in teacher.state_dict().items()}
    features = Features(teacher, LAYERS, 0.1)
    *_, state = train_adversarial(RECIPE, teacher, features, DATA, **changes)
    assert all(torch.equal(before[name], p) for name, p in teacher.state_dict().items())
    assert all(torch.equal(p, before[name]) for name, p in features.network.state_dict().items())
    return state


def test_training_moves_student_and_heads_alone_and_can_be_repeated():
    one, two = run(), run()
    assert one.step == 2 and one.opponent_loss == two.opponent_loss
    assert all(torch.equal(a, b) for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True))
    assert not torch.equal(next(one.model.parameters()), next(some_teacher().parameters()))


def test_terms_can_be_left_out():
    def start(heads):
        return next(heads.opponent.heads.parameters())

    alone = run(adversarial=0.0)
    assert alone.opponent_loss != alone.opponent_loss  # never trained
    assert not torch.equal(start(run(distillation=0.0)), start(alone))


@pytest.mark.parametrize("kind", ["adversarial", "not told", "matching"])
def test_an_interrupted_run_goes_on_exactly(kind, tmp_path):
    """Student, average, opponent and both optimisers, through a file, bit for bit."""
    recipe, path = replace(RECIPE, student=replace(RECIPE.student, steps=5)), tmp_path / "state.safetensors"

    def start(recipe=recipe, resume=None):
        teacher = some_teacher()
        if kind == "matching":
            return train_matching(recipe, teacher, DATA, resume=resume)
        features = Features(some_teacher(), LAYERS, 0.1)
        return train_adversarial(recipe, teacher, features, DATA, told=kind == "adversarial", resume=resume)

    for state in start():
        if state.step == 2:
            save_state(path, state)
    *_, resumed = start(resume=load_state(path, recipe, "student"))
    assert resumed.step == 5 and resumed.opponent_loss == state.opponent_loss
    whole, parts = state.tensors(), resumed.tensors()
    assert whole.keys() == parts.keys() and {name.split(".")[0] for name in whole} == {
        "model", "average", "optimizer", "opponent", "opponent_optimizer"
    }  # fmt: skip
    assert all(torch.equal(tensor, parts[name]) for name, tensor in whole.items())
    assert not torch.equal(whole["opponent_optimizer.0.exp_avg"], load_state(path, recipe, "student")[0]["opponent_optimizer.0.exp_avg"])  # fmt: skip


def test_a_state_of_another_kind_of_run_is_refused():
    *_, alone = distill(RECIPE, some_teacher(), DATA)
    with pytest.raises(ValueError, match="does not fit recipe"):
        run(resume=(alone.tensors(), 1))
    with pytest.raises(ValueError, match="a part 'opponent'"):
        next(distill(RECIPE, some_teacher(), DATA, resume=(run().tensors(), 1)))


EXACT = GaussianMixture(torch.tensor([[-0.6, 0.0], [0.5, 0.3]]), 0.2)


def test_nothing_moves_where_both_denoisers_agree():
    assert not matching_gradient(EXACT, EXACT, X, torch.ones(6), Z).any()


def test_matching_gradient_by_hand():
    def real(x, s):
        return torch.tensor([[1.0, 1.0]]).expand_as(x)

    def fake(x, s):
        return torch.tensor([[3.0, 0.0]]).expand_as(x)

    x = torch.tensor([[2.0, 4.0]])  # mean |x − 1| = 2
    g = matching_gradient(real, fake, x, torch.ones(1), torch.zeros(1, 2))
    torch.testing.assert_close(g, torch.tensor([[1.0, -0.5]]))


def test_the_matching_gradient_points_from_too_dense_to_too_thin():
    """For two Gaussians: τ²∇ ln(p_fake/p_real), whose descent moves the mean of the fakes to that of the data."""
    real, fake = GaussianMixture(torch.zeros(1, 2), 0.5), GaussianMixture(torch.ones(1, 2), 0.5)
    sigma, x = torch.full((6,), 0.7), 1 + 0.5 * X
    noisy = x + 0.7 * Z
    total = 0.5**2 + 0.7**2
    slope = 0.7**2 * ((noisy - 0) / total - (noisy - 1) / total)
    size = (x - real(noisy, sigma)).abs().mean(1, keepdim=True)
    torch.testing.assert_close(matching_gradient(real, fake, x, sigma, Z), slope / size)


def test_the_matching_loss_has_this_gradient():
    fake, x = GaussianMixture(torch.ones(1, 2), 0.5), X.clone().requires_grad_()
    (g,) = torch.autograd.grad(matching_loss(EXACT, fake, x, torch.ones(6), noise=Z).sum(), x)
    torch.testing.assert_close(g, matching_gradient(EXACT, fake, X, torch.ones(6), Z) / 2)


def test_matching_trains_student_and_second_denoiser_and_leaves_the_teacher():
    teacher = some_teacher()
    before = {name: p.clone() for name, p in teacher.state_dict().items()}
    *_, state = train_matching(RECIPE, teacher, DATA)
    assert all(torch.equal(before[name], p) for name, p in teacher.state_dict().items())
    assert all(p.requires_grad for p in state.opponent.parameters())
    for moved in (state.model, state.opponent):
        assert not torch.equal(next(moved.parameters()), next(some_teacher().parameters()))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Features(some_teacher(), []), "needs features"),
        (lambda: Features(some_teacher(), ["body.9"]), "no layer 'body.9'"),
        (lambda: Discriminator(lambda x: [], (2,)), "list of"),
        (lambda: Discriminator(lambda x: x, (2,)), "list of"),
        (lambda: Discriminator(lambda x: [x[:1]], (2,)), "list of"),
        (lambda: Discriminator(lambda x: [x], (2,), levels=0), "at least 1 noise level"),
        (lambda: Discriminator(lambda x: [x], (2,))(X, torch.zeros(2, dtype=torch.long)), "one a sample"),
        (lambda: discriminator_loss(Line([1.0, 0.0], 0.0), X, X[:3]), "must be equal"),
        (lambda: discriminator_loss(Line([1.0, 0.0], 0.0), X, X, -1.0), "cannot be negative"),
        (lambda: renoised_distillation_loss(EXACT, X, torch.ones(3)), "one noise level a sample"),
        (lambda: matching_gradient(EXACT, EXACT, X, torch.ones(3), Z), "noise levels"),
        (lambda: matching_gradient(EXACT, EXACT, X, torch.ones(6), Z[:2]), "in the shape of x"),
        (lambda: run(distillation=-1.0), "may be negative"),
        (lambda: run(distillation=0.0, adversarial=0.0), "nor both 0"),
        (lambda: run(levels=()), "at least one"),
        (lambda: run(levels=(80.0, 0.001)), "above 0.002"),
        (lambda: next(train_matching(RECIPE, some_teacher(), DATA, levels=(100.0,))), "at most 80"),
    ],
)  # fmt: skip
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_run_that_diverges_stops():
    wild = replace(RECIPE, student=replace(RECIPE.student, lr=1e38, steps=20))
    with pytest.raises(FloatingPointError):
        for _ in train_matching(wild, some_teacher(), DATA):
            pass
