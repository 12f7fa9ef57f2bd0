"""Further tests for chapter 1, for graders only: cdedu grade ... --hidden exercises/instructor/hidden/01_noise.py

Each takes the answers and a random generator, returns where all is well, and raises Wrong where not. Whoever has the course's
repository can read these; for a course of your own, write some that nobody else has.
"""

import torch

from cdedu.course.checks.core import agree, call
from cdedu.course.grading import hidden


@hidden("noise-weights")
def far_away(denoise_weighted, g):
    """Far from all points the best guess is the nearest one; an exponential that underflows gives NaN there."""
    points, weights = torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), torch.tensor([0.9, 0.1])
    x = torch.tensor([[60.0, 0.0], [-60.0, 0.0]]) * (1 + torch.rand((), generator=g))
    agree(call(denoise_weighted, x, 0.5, points, weights), x.sign() * torch.tensor([1.0, 0.0]))


@hidden("noise-stretched")
def in_ten_dimensions(denoise_stretched, g):
    """With equal widths it is the round Gaussian, in any dimension and along any axes."""
    x, mean = torch.randn(3, 10, generator=g), torch.randn(10, generator=g)
    axes = torch.linalg.qr(torch.randn(10, 10, generator=g))[0]
    guess = mean + (x - mean) * 0.5**2 / (0.5**2 + 0.3**2)
    agree(call(denoise_stretched, x, 0.3, mean, torch.full((10,), 0.5), axes), guess, tolerance=1e-3)
