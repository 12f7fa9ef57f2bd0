"""The exact teacher: a mixture of Gaussians, whose denoiser is a formula and whose probability flow is known to high accuracy.

Anything built on a teacher can be checked against this one.
"""

from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from cdedu.noise import SIGMA_MIN, Sigma, normal, per_sample, sigma_like


class GaussianMixture:
    r"""The exact teacher of :math:`p(x_0) = \sum_k w_k\,N(x_0;\ \mu_k,\ s_k^2 I)`.

    A standard deviation of 0 is allowed: with one component per training example this is the exact denoiser of a finite
    data set.

    Args:
        means: (K, ...) the centers, in the shape of one sample each; a (K,) tensor means one-dimensional data (B, 1).
        stds: (K,) or one number, not negative.
        weights: (K,), positive, summing to 1; equal by default.
    """

    def __init__(self, means: Tensor, stds: Tensor | float, weights: Tensor | None = None) -> None:
        means = torch.as_tensor(means)
        self.means = means[:, None] if means.ndim == 1 else means
        k = len(self.means)
        self.stds = torch.as_tensor(stds, dtype=self.means.dtype).expand(k)
        self.weights = torch.full((k,), 1 / k) if weights is None else torch.as_tensor(weights)
        self.weights = self.weights.to(self.means.dtype)
        if not self.means.is_floating_point() or not self.means.isfinite().all():
            raise ValueError("means must be finite floating-point numbers")
        if not (self.stds >= 0).all():
            raise ValueError(f"stds = {self.stds.tolist()}, but none may be negative or NaN")
        whole = (self.weights.sum() - 1).abs() <= 1e-4
        if self.weights.shape != (k,) or not (whole & (self.weights > 0)).all():
            raise ValueError(f"weights = {self.weights.tolist()} must be {k} positive numbers of sum 1")

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """Draw samples of x0, (n, ...)."""
        which = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = normal((n, *self.means.shape[1:]), generator, like=self.means)
        return self.means[which] + per_sample(self.stds[which], noise) * noise

    def posterior(self, x: Tensor, sigma: Sigma) -> tuple[Tensor, Tensor, Tensor]:
        r"""What is known about x0 once x is seen: again a mixture, with weights r (B, K), means m (B, K, ...) and stds √v (B, K).

        .. math::
            r_k \propto w_k\,N(x;\ \mu_k,\ (s_k^2+\sigma^2) I), \qquad
            m_k = \frac{s_k^2\,x + \sigma^2 \mu_k}{s_k^2 + \sigma^2}, \qquad
            v_k = \frac{s_k^2\sigma^2}{s_k^2+\sigma^2}
        """
        if x.shape[1:] != self.means.shape[1:]:
            wanted = ", ".join(map(str, self.means.shape[1:]))
            raise ValueError(f"x has shape {tuple(x.shape)}, want (B, {wanted})")
        means, stds, weights = (t.to(x) for t in (self.means, self.stds, self.weights))
        s2 = stds**2
        total = s2 + sigma_like(sigma, x).reshape(-1, 1).to(x.dtype) ** 2  # (B or 1, K)
        distance = (x[:, None] - means).flatten(2).square().sum(-1)  # (B, K)
        dim = means[0].numel()
        r = (weights.log() - distance / (2 * total) - dim / 2 * total.log()).softmax(-1)
        shrink = (s2 / total).expand_as(r).reshape(*r.shape, *[1] * (x.ndim - 1))
        m = means + shrink * (x[:, None] - means)
        return r, m, (s2 * (total - s2) / total).sqrt().expand_as(r)

    def __call__(self, x: Tensor, sigma: Sigma, **cond: Any) -> Tensor:
        r"""The conditional mean :math:`D(x, \sigma) = E[x_0 \mid x] = \sum_k r_k m_k`. x (B, ...) → (B, ...)."""
        r, m, _ = self.posterior(x, sigma)
        return torch.einsum("bk,bk...->b...", r, m)

    def consistency(self, x: Tensor, sigma: Sigma, sigma_min: float = SIGMA_MIN) -> Tensor:
        r"""The end :math:`f(x, \sigma)` at ``sigma_min`` of the probability-flow path that starts at (x, σ).

        One Gaussian: :math:`f = \mu + (x-\mu)\sqrt{(s^2+\varepsilon^2)/(s^2+\sigma^2)}`. One dimension: paths cannot cross, so
        :math:`f = F_\varepsilon^{-1}(F_\sigma(x))` with F the mixture's distribution function, solved by bisection. Otherwise the
        ODE is solved by an adaptive method of order 8 to a relative tolerance of 1e-9. Everything runs in float64 on the CPU, since not
        every device supports it. x (B, ...) → (B, ...); σ is a number or (B,), at least ``sigma_min``.
        """
        s = sigma_like(sigma, x, sigma_min=sigma_min).cpu().double().expand(len(x), *[1] * (x.ndim - 1))
        start = x.cpu().double()
        if len(self.means) == 1:
            end = self._end_of_component(start, s, sigma_min)[:, 0]
        elif x[0].numel() == 1:
            end = self._end_in_1d(start, s, sigma_min)
        else:
            end = self._end_by_ode(start, s, sigma_min)
        return end.to(x.dtype).to(x.device)

    def _end_of_component(self, x: Tensor, s: Tensor, sigma_min: float) -> Tensor:
        """Where each component would send x if it were the only one, (B, K, ...)."""
        means, stds = self.means.to(x), per_sample(self.stds.to(x), x)
        return means + (x[:, None] - means) * ((stds**2 + sigma_min**2) / (stds**2 + s[:, None] ** 2)).sqrt()

    def _log_tails(self, y: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """Log of the distribution function and of its complement at y (B, 1), with noise s (B, 1) added to the data."""
        means, stds, weights = (t.to(y).flatten() for t in (self.means, self.stds, self.weights))
        z = (y - means) / (stds**2 + s**2).sqrt()
        below = torch.special.log_ndtr(z) + weights.log()
        above = torch.special.log_ndtr(-z) + weights.log()
        return below.logsumexp(-1, keepdim=True), above.logsumexp(-1, keepdim=True)

    def _end_in_1d(self, x: Tensor, s: Tensor, sigma_min: float) -> Tensor:
        shape, x, s = x.shape, x.reshape(-1, 1), s.reshape(-1, 1)
        below, above = self._log_tails(x, s)
        ends = self._end_of_component(x, s, sigma_min)
        low, high = ends.amin(1), ends.amax(1)  # the answer lies between the answers of the components
        for _ in range(80):
            y = (low + high) / 2
            below_y, above_y = self._log_tails(y, torch.full_like(s, sigma_min))
            # Compare in the thinner tail, where the logarithm keeps all its digits.
            too_high = torch.where(below < above, below_y > below, above_y < above)
            low, high = torch.where(too_high, low, y), torch.where(too_high, y, high)
        return ((low + high) / 2).reshape(shape)

    def _end_by_ode(self, x: Tensor, s: Tensor, sigma_min: float) -> Tensor:
        from scipy.integrate import solve_ivp

        # With u from 0 to 1 and ln σ = (1 − u) ln σ_start + u ln ε, every sample takes its own σ at the same u.
        start, span = s.log(), np.log(sigma_min) - s.log()

        def velocity(u: float, flat: np.ndarray) -> np.ndarray:
            point = torch.from_numpy(flat).reshape(x.shape)
            sigma = (start + u * span).exp().flatten()
            return np.asarray((span * (point - self(point, sigma))).flatten())

        end = solve_ivp(velocity, (0, 1), x.flatten().numpy(), method="DOP853", rtol=1e-9, atol=1e-10)
        return torch.from_numpy(end.y[:, -1]).reshape(x.shape)
