"""Progressive distillation: one round halves the steps exactly, and the loss has its minimum there."""

import copy
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from cdedu.data import Dataset
from cdedu.losses import denoising_loss
from cdedu.methods.progressive import halve, progressive_loss, two_step_target
from cdedu.mixture import GaussianMixture
from cdedu.networks import MLP
from cdedu.noise import karras_sigmas
from cdedu.recipes import Network, Recipe, StudentStage
from cdedu.samplers import sample_euler
from cdedu.solvers import euler_step
from cdedu.teacher import Teacher

F64 = torch.float64
EXACT = GaussianMixture(
    torch.tensor([[-0.6, 0.0], [0.5, 0.3]], dtype=F64), torch.tensor([0.2, 0.3], dtype=F64)
)
GRID = karras_sigmas(8, dtype=F64)
Z = torch.randn(20, 2, generator=torch.Generator().manual_seed(0), dtype=F64)


class Perfect:
    """The student whose loss is zero: it answers with the target at each point of its grid."""

    sigma_data = 0.5

    def __init__(self, teacher, sigmas):
        self.teacher, self.levels = teacher, [*sigmas.tolist(), 0.0]

    def __call__(self, x, sigma, **cond):
        levels = torch.tensor(self.levels, dtype=F64)
        i = (levels - torch.as_tensor(sigma, dtype=F64).reshape(-1, 1)).abs().argmin(1).expand(len(x))
        return two_step_target(self.teacher, x, levels[i], levels[i + 1], levels[i + 2])


def walk(denoiser, x, sigmas):
    for sigma, sigma_next in pairwise([*sigmas.tolist(), 0.0]):
        x = euler_step(denoiser, x, sigma, sigma_next)
    return x


def test_one_student_step_lands_where_two_teacher_steps_land():
    x, (sigma, middle, end) = 3 * Z, GRID[2:5].tolist()
    d = (x - EXACT(x, sigma)) / sigma
    x_middle = x + (middle - sigma) * d
    d = (x_middle - EXACT(x_middle, middle)) / middle
    x_end = x_middle + (end - middle) * d
    guess = two_step_target(EXACT, x, sigma, middle, end)
    torch.testing.assert_close(x + (end - sigma) * (x - guess) / sigma, x_end)


def test_to_zero_the_target_is_the_end_itself():
    x = GRID[-2] * Z
    guess = two_step_target(EXACT, x, GRID[-2], GRID[-1], 0.0)
    assert torch.equal(guess, euler_step(EXACT, euler_step(EXACT, x, GRID[-2], GRID[-1]), GRID[-1], 0.0))


def test_perfect_rounds_halve_the_steps_exactly():
    x, model, grid = GRID[0] * Z, EXACT, GRID
    end = sample_euler(EXACT, x, GRID)
    for steps in (4, 2, 1):
        model, grid = Perfect(model, grid), grid[::2]
        assert len(grid) == steps
        torch.testing.assert_close(walk(model, x, grid), end)


def test_the_loss_is_the_denoising_loss_with_another_goal():
    torch.manual_seed(0)
    student = Teacher(MLP(width=16, depth=1).double())
    x0, index = EXACT.sample(20, torch.Generator().manual_seed(1)), torch.arange(20) % 4
    levels = torch.cat([GRID, GRID.new_zeros(1)])
    sigma, middle, end = (levels[2 * index + k] for k in range(3))
    x = x0 + sigma[:, None] * Z
    goal = two_step_target(EXACT, x, sigma, middle, end)
    # Data at x̃ with the noise that leads to the same x.
    same = denoising_loss(student, goal, sigma, noise=(x - goal) / sigma[:, None])
    torch.testing.assert_close(progressive_loss(student, EXACT, x0, GRID, index=index, noise=Z), same)


def test_the_perfect_student_has_no_loss():
    x0 = EXACT.sample(20, torch.Generator().manual_seed(1))
    loss = progressive_loss(Perfect(EXACT, GRID), EXACT, x0, GRID, generator=torch.Generator().manual_seed(2))
    assert loss.shape == (20,) and loss.max() < 1e-12


def test_every_step_of_the_students_grid_is_drawn():
    seen = []

    def spy(x, sigma):
        seen.extend(sigma.tolist())
        return x

    spy.sigma_data = 0.5
    progressive_loss(spy, EXACT, Z.repeat(10, 1), GRID, generator=torch.Generator().manual_seed(0))
    assert set(seen) == set(GRID[::2].tolist())


def test_no_gradient_reaches_the_teacher():
    student, teacher = (Teacher(MLP(width=8, depth=1).double()) for _ in range(2))
    progressive_loss(student, teacher, Z, GRID).mean().backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert any(p.grad is not None for p in student.parameters())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"sigmas": GRID[:7]}, "7 points"),
        ({"sigmas": GRID.flip(0)}, "from large to small"),
        ({"sigmas": GRID, "index": torch.full((20,), 4)}, "one step in 0..3"),
        ({"sigmas": GRID, "index": torch.zeros(3, dtype=torch.long)}, "each of the 20 samples"),
    ],
)
def test_bad_input_is_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        progressive_loss(Perfect(EXACT, GRID), EXACT, Z, **arguments)


# --- the loop ------------------------------------------------------------------------------------

X = 0.5 * torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
DATA = Dataset("tiny", X[:150], X[150:], torch.arange(150) % 3, torch.arange(50) % 3)
RECIPE = Recipe(
    "tiny", "tiny", Network(width=16, depth=1, classes=3), student=StudentStage(steps=6, batch=16)
)


def teacher():
    torch.manual_seed(0)
    return Teacher(MLP(2, 16, 1, 3))


def snapshot(state):
    return {name: t.clone() for name, t in state.tensors().items()}


def test_a_round_can_teach_the_next_and_leaves_its_teacher_alone():
    first = teacher()
    before = copy.deepcopy(first.state_dict())
    for state in halve(RECIPE, first, karras_sigmas(4), DATA):
        assert state.loss > 0
    assert state.step == 6 and isinstance(state.result, Teacher)
    assert all(t.equal(before[name]) for name, t in first.state_dict().items())
    *_, last = halve(RECIPE, state.result, karras_sigmas(4)[::2], DATA)
    assert not all(
        a.equal(b) for a, b in zip(last.result.parameters(), state.result.parameters(), strict=True)
    )


def test_an_interrupted_round_goes_on_to_the_same_weights():
    whole = [snapshot(s) for s in halve(RECIPE, teacher(), karras_sigmas(4), DATA)]
    *_, state = halve(RECIPE, teacher(), karras_sigmas(4), DATA, resume=(whole[2], 3))
    assert state.step == 6 and all(t.equal(whole[-1][name]) for name, t in snapshot(state).items())


def test_a_round_improves_the_long_steps():
    """One Gaussian: after a short run, one step of the student is much nearer to two teacher steps than one teacher step is."""
    data = Dataset("gaussian", X, X)
    recipe = replace(RECIPE, network=Network(width=32, depth=2), student=StudentStage(steps=150, batch=128))
    exact, grid = GaussianMixture(torch.zeros(1, 2), 0.5), torch.tensor([2.0, 0.5])
    torch.manual_seed(0)
    network = Teacher(MLP(2, 32, 2))

    class Known(Teacher):
        """A teacher that is exact, with a network for the student to start from."""

        def forward(self, x, sigma, **cond):
            return super().forward(x, sigma, **cond) if self.training else exact(x, sigma)

    *_, state = halve(recipe, Known(network.network), grid, data)
    x = 2 * torch.randn(200, 2, generator=torch.Generator().manual_seed(3))
    end = walk(exact, x, grid)
    student = state.result.train()  # its own network
    with torch.no_grad():
        after, before = walk(student, x, grid[::2]), walk(exact, x, grid[::2])
    assert (after - end).square().mean() < 0.1 * (before - end).square().mean()


def test_a_round_refuses_a_grid_that_cannot_be_paired():
    with pytest.raises(ValueError, match="3 points"):
        next(halve(RECIPE, teacher(), karras_sigmas(3), DATA))
