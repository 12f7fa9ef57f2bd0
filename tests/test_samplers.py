"""Samplers against an independent copy of EDM's algorithm, against diffusers, and against exact variances."""

import inspect
import math

import pytest
import torch

from cdedu.mixture import GaussianMixture
from cdedu.networks import MLP
from cdedu.noise import karras_sigmas, normal
from cdedu.samplers import (
    Step,
    sample_consistency,
    sample_ddpm,
    sample_dpm_solver,
    sample_euler,
    sample_heun,
    sampler,
)
from cdedu.teacher import Teacher

F64 = torch.float64
SAMPLERS = [sample_euler, sample_heun, sample_ddpm, sample_dpm_solver]


def random_teacher(dtype: torch.dtype = F64) -> Teacher:
    torch.manual_seed(0)
    return Teacher(MLP(width=32).to(dtype)).eval()


@pytest.mark.parametrize("dtype, tolerance", [(F64, 1e-12), (torch.float32, 1e-4)])
def test_heun_sampler_is_edms(dtype, tolerance):
    """Against Karras et al.'s algorithm 1, written out again: own grid, own preconditioning, float64 state."""
    teacher, n = random_teacher(dtype), 18
    z = torch.randn(7, 2, generator=torch.Generator().manual_seed(0), dtype=dtype)

    def D(x: torch.Tensor, t: float) -> torch.Tensor:
        c_noise = torch.full((len(x),), math.log(t) / 4, dtype=dtype)
        F = teacher.network((x / math.sqrt(t * t + 0.25)).to(dtype), c_noise).double()
        return 0.25 / (t * t + 0.25) * x + 0.5 * t / math.sqrt(t * t + 0.25) * F

    a, b = 80 ** (1 / 7), 0.002 ** (1 / 7)
    t = [(a + i / (n - 1) * (b - a)) ** 7 for i in range(n)] + [0.0]
    x = t[0] * z.double()
    with torch.no_grad():
        for i in range(n):
            d = (x - D(x, t[i])) / t[i]
            x_next = x + (t[i + 1] - t[i]) * d
            if t[i + 1]:
                d_next = (x_next - D(x_next, t[i + 1])) / t[i + 1]
                x_next = x + (t[i + 1] - t[i]) * (d + d_next) / 2
            x = x_next
    got = sample_heun(teacher, 80 * z, karras_sigmas(n, dtype=F64))
    assert got.dtype == dtype and (got - x).abs().max() < tolerance


def beta_schedule():
    """The cumulative products of DDPM in float64, and each step's σ."""
    a = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=F64), 0)
    return a, ((1 - a) / a).sqrt()


def eps_network(x: torch.Tensor, t: int) -> torch.Tensor:
    """A made-up noise predictor of the variance-preserving world."""
    return torch.sin(2 * x + t / 1000) + 0.3 * x.flip(1)


def vp_denoiser(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """D(x, σ) = x − σ ε(x / √(1 + σ²), t(σ))."""
    t = int((beta_schedule()[1] - sigma).abs().argmin())
    return x - sigma * eps_network(x / math.sqrt(1 + sigma**2), t)


def test_euler_is_diffusers_ddim():
    """The same path in two coordinates: x_σ = x_vp √(1 + σ²)."""
    from diffusers import DDIMScheduler

    alphas, sigmas = beta_schedule()
    scheduler = DDIMScheduler(1000, clip_sample=False, set_alpha_to_one=False, timestep_spacing="trailing")
    scheduler.alphas_cumprod, scheduler.final_alpha_cumprod = alphas, alphas[0]
    scheduler.set_timesteps(20)
    x = z = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    for t in scheduler.timesteps:
        x = scheduler.step(eps_network(x, int(t)), t, x).prev_sample
    grid = sigmas[[*scheduler.timesteps.tolist(), 0]]
    start = z * (1 + grid[0] ** 2).sqrt()
    got = sample_euler(vp_denoiser, start, grid, to_zero=False)
    assert torch.allclose(got / (1 + grid[-1] ** 2).sqrt(), x, atol=1e-10)


def test_ancestral_sampler_is_diffusers_ddpm():
    """With the ``fixed_small`` variance, and the same noise in both."""
    import diffusers.schedulers.scheduling_ddpm as library

    alphas, sigmas = beta_schedule()
    scheduler = library.DDPMScheduler(1000, clip_sample=False, variance_type="fixed_small")
    scheduler.alphas_cumprod = alphas
    scheduler.set_timesteps(20)
    x = z = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    g = torch.Generator().manual_seed(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "randn_tensor", lambda shape, **_: normal(tuple(shape), g, like=z))
        for t in scheduler.timesteps:
            x = scheduler.step(eps_network(x, int(t)), t, x).prev_sample
    grid = sigmas[scheduler.timesteps]
    start = z * (1 + grid[0] ** 2).sqrt()
    got = sample_ddpm(vp_denoiser, start, grid, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(got, x, atol=1e-9)


def test_ancestral_step_draws_from_the_posterior():
    """For a denoiser that knows x0: mean x0 + (σ_s/σ_t)² (x − x0), variance σ_s² (σ_t² − σ_s²) / σ_t²."""
    x0, x = torch.randn(5, 2, dtype=F64), 3 * torch.randn(5, 2, dtype=F64)
    t, s = 3.0, 1.2
    z = normal((5, 2), torch.Generator().manual_seed(2), like=x)
    got = sample_ddpm(
        lambda *_: x0, x, torch.tensor([t, s]), to_zero=False, generator=torch.Generator().manual_seed(2)
    )
    expected = x0 + (s / t) ** 2 * (x - x0) + math.sqrt(s**2 * (t**2 - s**2)) / t * z
    assert torch.allclose(got, expected, rtol=1e-6)


class ExactStudent:
    """The exact consistency function of N(0, s²)."""

    def __init__(self, s: float, sigma_min: float) -> None:
        self.gaussian, self.sigma_min = GaussianMixture(torch.zeros(1, 1, dtype=F64), s), sigma_min

    def __call__(self, x, sigma, **cond):
        return self.gaussian.consistency(x, sigma, self.sigma_min)


@pytest.mark.parametrize("sigmas", [(80.0,), (80.0, 1.0), (80.0, 0.4), (80.0, 5.0, 0.5, 0.31)])
def test_any_schedule_keeps_the_exact_variance(sigmas):
    """x_T ~ N(0, s² + T²) in, variance s² + ε² out; ε is large here, so that a renoising without −ε² shows."""
    s, eps, g = 0.5, 0.3, torch.Generator().manual_seed(0)
    x = math.hypot(s, 80) * torch.randn(200_000, 1, generator=g, dtype=F64)
    y = sample_consistency(ExactStudent(s, eps), x, sigmas, g)
    assert y.var().item() == pytest.approx(s**2 + eps**2, rel=0.01)


def test_between_two_steps_the_noise_is_put_back_up_to_the_level_that_the_student_is_told():
    calls = []

    class Student:
        sigma_min = 0.6

        def __call__(self, x, sigma, labels):
            calls.append((x, sigma, labels))
            return 0.1 * x

    x, g = 80 * torch.randn(4, 2), torch.Generator().manual_seed(5)
    y = sample_consistency(Student(), x, (80.0, 1.0, 0.6), g, labels="labels")
    z = normal((4, 2), torch.Generator().manual_seed(5))
    assert [(s, c) for _, s, c in calls] == [(80.0, "labels"), (1.0, "labels"), (0.6, "labels")]
    assert calls[0][0].equal(x)
    assert torch.allclose(calls[1][0], 0.1 * x + 0.8 * z)  # √(1² − .6²)
    assert torch.allclose(calls[2][0], 0.1 * calls[1][0])  # nothing to add at ε
    assert torch.allclose(y, 0.1 * calls[2][0])


@pytest.mark.parametrize("to_zero", [True, False])
def test_dpm_solver_is_its_formula(to_zero):
    """Lu et al.'s 2M, written out in σ; the first step is Euler's, and so is a last one to 0."""
    teacher, grid = random_teacher(), karras_sigmas(9, dtype=F64)
    x = z = 80 * torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    t, before = [*grid.tolist(), 0.0][: 9 + to_zero], None
    with torch.no_grad():
        for i in range(len(t) - 1):
            d = guess = teacher(x, t[i])
            if 0 < i and t[i + 1]:
                ratio = math.log(t[i] / t[i + 1]) / math.log(t[i - 1] / t[i])
                guess = d + ratio / 2 * (d - before)
            x, before = t[i + 1] / t[i] * x + (1 - t[i + 1] / t[i]) * guess, d
    assert (sample_dpm_solver(teacher, z, grid, to_zero) - x).abs().max() < 1e-10


def diffusers_dpm_solver(levels, **options):
    """diffusers' scheduler on a grid of our own."""
    from diffusers import EDMDPMSolverMultistepScheduler

    scheduler = EDMDPMSolverMultistepScheduler(sigma_data=0.5, sigma_min=0.002, sigma_max=80.0, **options)
    scheduler.set_timesteps(len(levels) - 1)
    scheduler.set_begin_index(0)
    scheduler.sigmas = levels
    return scheduler


def test_dpm_solver_is_diffusers_stepping():
    """As a pipeline of diffusers would call it, with the raw network and its own preconditioning."""
    teacher, grid = random_teacher(torch.float32), karras_sigmas(20)
    scheduler = diffusers_dpm_solver(torch.cat([grid, torch.zeros(1)]))
    x = z = 80 * torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for t in scheduler.timesteps:
            output = teacher.network(scheduler.scale_model_input(x, t), t.expand(6))
            x = scheduler.step(output, t, x).prev_sample
    assert torch.allclose(sample_dpm_solver(teacher, z, grid), x, atol=2e-4)


@pytest.mark.parametrize("to_zero", [True, False])
def test_dpm_solver_is_that_of_diffusers_to_the_last_digits(to_zero):
    """In float64, with the denoiser's guess in the place of the scheduler's own preconditioning."""
    teacher, grid = random_teacher(), karras_sigmas(12, 0.01, 50.0, 5.0, dtype=F64)
    levels = torch.cat([grid, torch.zeros(1, dtype=F64)])[: 12 + to_zero]
    end = "zero" if to_zero else "sigma_min"
    scheduler = diffusers_dpm_solver(levels, lower_order_final=False, final_sigmas_type=end)
    scheduler.convert_model_output = lambda output, sample: output
    x = z = 50 * torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    with torch.no_grad():
        for sigma in levels[:-1].tolist():
            x = scheduler.step(teacher(x, sigma), None, x).prev_sample
    assert torch.allclose(sample_dpm_solver(teacher, z, grid, to_zero), x, rtol=1e-10, atol=1e-12)


def test_dpm_solver_is_of_second_order_and_has_no_memory_between_calls():
    teacher = GaussianMixture(torch.tensor([[0.3, -0.2], [-0.4, 0.1]], dtype=F64), 0.4)
    x = 80 * torch.randn(20, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    exact = sample_heun(teacher, x, karras_sigmas(1000, dtype=F64), to_zero=False)

    def error(n: int) -> float:
        y = sample_dpm_solver(teacher, x, karras_sigmas(n, dtype=F64), to_zero=False)
        return float((y - exact).square().mean().sqrt())

    errors = [error(40), error(80), error(40)]
    assert 3 < errors[0] / errors[1] < 5 and errors[0] == errors[2]


def test_dpm_solver_refuses_equal_neighbours():
    with pytest.raises(ValueError, match="two neighbors of sigmas are equal"):
        sample_dpm_solver(random_teacher(), torch.zeros(1, 2, dtype=F64), torch.tensor([80.0, 1.0, 1.0]))


@pytest.mark.parametrize(
    "sample, evaluations",
    [(sample_euler, 18), (sample_heun, 35), (sample_ddpm, 18), (sample_dpm_solver, 18)],
)
def test_evaluations_progress_and_states_are_counted(sample, evaluations):
    calls, bars, states = [], [], []

    def denoiser(x, sigma, labels):
        assert labels == "labels" and not torch.is_grad_enabled()
        calls.append(sigma)
        return 0 * x

    def progress(steps):
        bars.append(len(steps))
        return steps

    x = 80 * torch.randn(3, 2)
    options = {"progress": progress, "callback": lambda x, s: states.append(s), "labels": "labels"}
    y = sample(denoiser, x, karras_sigmas(18), **options)
    assert len(calls) == evaluations and bars == [18] and len(states) == 19
    assert states[0] == 80 and states[-1] == 0 and y.abs().max() < 1e-4
    calls.clear(), states.clear()
    sample(denoiser, x, karras_sigmas(18), to_zero=False, **options)
    assert len(calls) == evaluations - 1 and states[-1] == pytest.approx(0.002)


def test_deterministic_samplers_end_at_the_exact_flow():
    teacher = GaussianMixture(torch.tensor([[0.3, -0.2]], dtype=F64), 0.5)
    x = 80 * torch.randn(9, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    exact = teacher.consistency(x, 80.0)
    y = sample_heun(teacher, x, karras_sigmas(300, dtype=F64), to_zero=False)
    assert (y - exact).abs().max() < 1e-3


def test_ancestral_samples_have_the_variance_that_follows_from_their_steps():
    """For Gaussian data every step is linear, so the variance has a recursion of its own."""
    s, g, grid = 0.5, torch.Generator().manual_seed(0), karras_sigmas(18)
    x = sample_ddpm(
        GaussianMixture(torch.zeros(1, 1), s), 80 * torch.randn(100_000, 1, generator=g), grid, generator=g
    )
    variance = 80.0**2
    for a, b in zip(grid.tolist(), [*grid[1:].tolist(), 0.0], strict=True):
        c, r = s**2 / (s**2 + a**2), (b / a) ** 2
        variance = (c + r * (1 - c)) ** 2 * variance + b**2 * (1 - r)
    assert x.var().item() == pytest.approx(variance, rel=0.02)


def test_one_seed_one_result():
    teacher, x = random_teacher(), 80 * torch.randn(3, 2, dtype=F64)
    draw = lambda seed: torch.Generator().manual_seed(seed)  # noqa: E731
    for run in (
        lambda g: sample_ddpm(teacher, x, karras_sigmas(5), generator=g),
        lambda g: sample_consistency(teacher, x, (80.0, 0.8), g),
    ):
        assert run(draw(0)).equal(run(draw(0))) and not run(draw(0)).equal(run(draw(1)))


@pytest.mark.parametrize("sample", SAMPLERS)
def test_a_rising_grid_is_refused(sample):
    with pytest.raises(ValueError, match="from large to small"):
        sample(random_teacher(), torch.zeros(1, 2, dtype=F64), karras_sigmas(5).flip(0))


@pytest.mark.parametrize(
    "sigmas, words",
    [
        ((), "n at least 1, but its shape is"),
        ((1.0, 80.0), "from large to small"),
        ((80.0, 0.001), "below sigma_min = 0.002"),
        ((80.0, -1.0), "positive and finite"),
        ((math.nan,), "positive and finite"),
    ],
)
def test_consistency_sampler_refuses(sigmas, words):
    with pytest.raises(ValueError, match=words):
        sample_consistency(ExactStudent(0.5, 0.002), torch.zeros(1, 1, dtype=F64), sigmas)


def test_a_sampler_of_ones_own_is_a_function_that_gives_a_step():
    @sampler
    def sample_half() -> Step:
        """Goes half of the way."""

        def step(denoiser, x, sigma, sigma_next, *, share=0.5, **cond):
            return x + share * (denoiser(x, sigma, **cond) - x)

        return step

    x, seen = torch.full((1, 1), 8.0), []
    options = {"share": 0.25, "labels": None, "callback": lambda x, sigma: seen.append(x.item())}
    sample_half(lambda x, sigma, labels: 0 * x, x, torch.tensor([4.0, 2.0, 1.0]), **options)
    assert seen == [8.0, 6.0, 4.5, 3.375]
    assert (sample_half.__name__, sample_half.__doc__) == ("sample_half", "Goes half of the way.")


@pytest.mark.parametrize("sample", [*SAMPLERS, sample_consistency])
def test_clip_clamps_every_guess_and_nothing_else(sample):
    g = torch.Generator()
    x, grid, seen = 80 * torch.randn(5, 2, generator=g.manual_seed(0), dtype=F64), [80.0, 5.0, 0.5], []

    def guess(x: torch.Tensor, sigma: float) -> torch.Tensor:
        return x / (1 + sigma / 8)

    def clamped(x: torch.Tensor, sigma: float) -> torch.Tensor:
        seen.append(guess(x, sigma))
        return seen[-1].clamp(-1.5, 1.5)

    def walk(denoiser, **options):
        if sample in (sample_ddpm, sample_consistency):
            options["generator"] = g.manual_seed(1)
        return sample(denoiser, x, torch.tensor(grid, dtype=F64), **options)

    assert torch.equal(walk(guess, clip=1.5), walk(clamped))
    assert max(y.abs().max() for y in seen) > 1.5 and not torch.equal(walk(guess), walk(guess, clip=1.5))
    guess.clip = 1.5  # as a published consistency model says
    assert torch.equal(walk(guess), walk(clamped))
    assert torch.equal(walk(guess, clip=math.inf), walk(lambda x, sigma: guess(x, sigma)))
    with pytest.raises(ValueError, match=r"clip = 0, but it must be positive"):
        walk(guess, clip=0)


def test_help_shows_every_argument_of_a_sampler():
    names = "denoiser x sigmas to_zero clip progress callback generator cond"
    assert " ".join(inspect.signature(sample_ddpm).parameters) == names
    for other in (sample_euler, sample_heun, sample_dpm_solver):
        assert " ".join(inspect.signature(other).parameters) == names.replace(" generator", "")
        assert (
            inspect.isfunction(other)
            and other.__module__ == "cdedu.samplers"
            and "n points cost" in other.__doc__
        )
