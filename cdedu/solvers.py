"""One step of the probability-flow ODE.

In the noise scale σ the ODE of every diffusion model is

.. math:: \\frac{dx}{d\\sigma} = \\frac{x - D(x, \\sigma)}{\\sigma},

the line from the denoiser's guess through x. A step may go to σ = 0, where x is the guess itself.
"""

from typing import Any, Protocol

from torch import Tensor

from cdedu.noise import Sigma, sigma_like
from cdedu.teacher import Denoiser


class Solver(Protocol):
    """``solver(denoiser, x, sigma, sigma_next, **cond)``: x at ``sigma_next``, in the shape and dtype of x."""

    def __call__(
        self, denoiser: Denoiser, x: Tensor, sigma: Sigma, sigma_next: Sigma, **cond: Any
    ) -> Tensor: ...


def euler_step(denoiser: Denoiser, x: Tensor, sigma: Sigma, sigma_next: Sigma, **cond: Any) -> Tensor:
    r"""Euler's method, which is also DDIM: one denoiser call, error of order 1.

    .. math:: x' = x + (\sigma' - \sigma)\,\frac{x - D(x, \sigma)}{\sigma}

    x is (B, ...), at noise level ``sigma``; the levels are numbers or (B,), and ``sigma_next`` may be 0.

    Source: Song, Meng, Ermon 2020 (η = 0), in σ; Song et al. 2023, eq. 6.
    """
    s, s_next = sigma_like(sigma, x), sigma_like(sigma_next, x, zero_allowed=True)
    d = (x - denoiser(x, sigma, **cond)) / s
    return (x + (s_next - s) * d).to(x.dtype)


def heun_step(denoiser: Denoiser, x: Tensor, sigma: Sigma, sigma_next: Sigma, **cond: Any) -> Tensor:
    r"""Heun's method: an Euler step, then the mean of the slopes at its two ends. Two calls, error of order 2.

    .. math:: d = \frac{x - D(x, \sigma)}{\sigma}, \quad
              d' = \frac{x_\text{E} - D(x_\text{E}, \sigma')}{\sigma'}, \quad
              x' = x + (\sigma' - \sigma)\,\frac{d + d'}{2}, \qquad x_\text{E} = x + (\sigma'-\sigma)\,d

    A step to exactly 0 (given as a number) is an Euler step, since there is no slope at 0.

    Source: Karras et al. 2022, algorithm 1.
    """
    if isinstance(sigma_next, float | int) and sigma_next == 0:
        return euler_step(denoiser, x, sigma, sigma_next, **cond)
    s, s_next = sigma_like(sigma, x), sigma_like(sigma_next, x)
    d = (x - denoiser(x, sigma, **cond)) / s
    x_euler = (x + (s_next - s) * d).to(x.dtype)
    d_next = (x_euler - denoiser(x_euler, sigma_next, **cond)) / s_next
    return (x + (s_next - s) * (d + d_next) / 2).to(x.dtype)
