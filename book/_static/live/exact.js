// The exact denoiser of a mixture of Gaussians in the plane, and the steps of the solvers, as the global `exact`: what the
// package has in cdedu.mixture, cdedu.solvers and cdedu.samplers, in the same symbols. A point x is [x, y].
"use strict";

window.exact ??= (() => {
  const EPSILON = 0.002;
  const T = 80;

  /**
   * The data: K Gaussians at means [x0, y0, x1, y1, ...] of one standard deviation s, which may be 0: then they are points.
   * group[k] says which part of the data, such as a moon, the k-th belongs to; names are those of the parts.
   */
  function mixture(means, s = 0, { weights, group, names = [] } = {}) {
    const K = means.length / 2;
    return {
      means: Float64Array.from(means),
      s,
      logw: Array.from({ length: K }, (_, k) => Math.log(weights ? weights[k] : 1 / K)),
      group: group ?? Array.from({ length: K }, (_, k) => k),
      names,
    };
  }

  /** r_k: how much of what is seen as x at noise level sigma came from the k-th Gaussian. They sum to 1. */
  function posterior({ means, s, logw }, [x, y], sigma) {
    const total = s * s + sigma * sigma;
    const r = new Float64Array(logw.length);
    let [top, sum] = [-Infinity, 0];
    for (let k = 0; k < r.length; k++) {
      r[k] = logw[k] - ((x - means[2 * k]) ** 2 + (y - means[2 * k + 1]) ** 2) / (2 * total);
      if (r[k] > top) top = r[k];
    }
    for (let k = 0; k < r.length; k++) sum += r[k] = Math.exp(r[k] - top);
    for (let k = 0; k < r.length; k++) r[k] /= sum;
    return r;
  }

  /** D(x, sigma), the mean of what may be behind x: sum of r_k m_k, with m_k = (s² x + sigma² mu_k) / (s² + sigma²). */
  function denoise(data, x, sigma) {
    const r = posterior(data, x, sigma);
    const shrink = (data.s * data.s) / (data.s * data.s + sigma * sigma);
    let [u, v] = [0, 0];
    for (let k = 0; k < r.length; k++) {
      u += r[k] * data.means[2 * k];
      v += r[k] * data.means[2 * k + 1];
    }
    return [u + shrink * (x[0] - u), v + shrink * (x[1] - v)];
  }

  /** Which part of the data x belongs to, once it is clean. */
  function groupOf(data, x) {
    const share = [];
    posterior(data, x, EPSILON).forEach((r, k) => (share[data.group[k]] = (share[data.group[k]] ?? 0) + r));
    return share.indexOf(Math.max(...share));
  }

  // --- steps: from x at noise level sigma to the next level, which may be 0 ----------------------------

  /** x' = x + (sigma' − sigma) d with d = (x − D) / sigma. This is DDIM, too. */
  function euler(D, x, sigma, next) {
    const guess = D(x, sigma);
    return x.map((v, i) => v + ((next - sigma) * (v - guess[i])) / sigma);
  }

  /** The mean of the directions at both ends of Euler's step. The last step, to 0, is Euler's: there is no direction at 0. */
  function heun(D, x, sigma, next) {
    if (next === 0) return euler(D, x, sigma, next);
    const guess = D(x, sigma);
    const d = x.map((v, i) => (v - guess[i]) / sigma);
    const there = x.map((v, i) => v + (next - sigma) * d[i]);
    const guessThere = D(there, next);
    return x.map((v, i) => v + ((next - sigma) * (d[i] + (there[i] - guessThere[i]) / next)) / 2);
  }

  /** Step lower than asked, then add fresh noise: ancestral sampling. normal() draws it. */
  function ddpm(D, x, sigma, next, normal) {
    const up = (next * Math.sqrt(sigma * sigma - next * next)) / sigma;
    const down = Math.sqrt(next * next - up * up);
    return euler(D, x, sigma, down).map((v) => (up ? v + up * normal() : v));
  }

  /** All points of a walk down the grid, and on to 0. */
  function walk(step, D, x, sigmas, normal) {
    const path = [x];
    sigmas.forEach((sigma, i) => path.push(step(D, path[i], sigma, sigmas[i + 1] ?? 0, normal)));
    return path;
  }

  /**
   * The path itself, from (x, sigma) down to epsilon: { path, sigmas }, by Runge and Kutta's steps of order 4 along ln sigma, where
   * the equation reads dx / d ln sigma = x − D(x, sigma).
   */
  function exactPath(data, x, sigma = T, steps = 160) {
    const h = Math.log(EPSILON / sigma) / steps;
    const slope = (x, at) => denoise(data, x, at).map((guess, i) => x[i] - guess);
    const ahead = (x, k, t) => x.map((v, i) => v + t * k[i]);
    const [path, sigmas] = [[x], [sigma]];
    for (let i = 0; i < steps; i++) {
      const [p, now, half, next] = [path[i], ...[i, i + 0.5, i + 1].map((j) => sigma * Math.exp(j * h))];
      const a = slope(p, now);
      const b = slope(ahead(p, a, h / 2), half);
      const c = slope(ahead(p, b, h / 2), half);
      const d = slope(ahead(p, c, h), next);
      path.push(p.map((v, j) => v + (h / 6) * (a[j] + 2 * b[j] + 2 * c[j] + d[j])));
      sigmas.push(next);
    }
    return { path, sigmas };
  }

  // --- data ----------------------------------------------------------------------------------------------

  /** Points along the arcs of two_moons of the package, n on each. */
  function arcs(n) {
    const along = (moon) =>
      Array.from({ length: n }, (_, i) => {
        const t = (Math.PI * (i + 0.5)) / n;
        const [x, y] = moon ? [1 - Math.cos(t), 0.5 - Math.sin(t)] : [Math.cos(t), Math.sin(t)];
        return [(x - 0.5) / 1.4, (y - 0.25) / 1.4];
      });
    return [...along(0), ...along(1)].flat();
  }

  /** Chapter 2's three blobs; and the two moons, as eighty Gaussians along their arcs. */
  const blobs = mixture([-0.64, -0.32, 0, 0.64, 0.64, -0.32], 0.2, {
    weights: [0.3, 0.4, 0.3],
    names: ["left blob", "top blob", "right blob"],
  });
  const moons = mixture(arcs(40), 0.06 / 1.4, {
    group: Array.from({ length: 80 }, (_, k) => Math.floor(k / 40)),
    names: ["upper moon", "lower moon"],
  });

  return { EPSILON, T, mixture, posterior, denoise, groupOf, euler, heun, ddpm, walk, exactPath, arcs, blobs, moons };
})();
