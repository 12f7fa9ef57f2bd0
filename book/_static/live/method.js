// Consistency distillation in two dimensions, the whole of it, in the symbols of the course: an exact teacher D, a student f_θ,
// the loss, its gradient by hand, Adam, and the averages of the weights. Points are [x0, y0, x1, y1, ...].
// A function of two helpers (common.js), so that its text can be sent to a worker: nothing outside is used.
"use strict";

window.live ??= {};
live.method = function method({ source, karrasSigmas }) {
  const [sigmaData, sigmaMin, sigmaMax] = [0.5, 0.002, 80]; // σ_d, ε and T

  // --- data and teacher --------------------------------------------------------------------------

  const along = (n, point) => Float64Array.from(Array.from({ length: n }, (_, i) => point(i)).flat());
  const half = (i) => (Math.PI * (i % 48)) / 47;

  /** Data sets are mixtures of Gaussians: means, and one standard deviation s. The moons are those of chapter 4. */
  const DATA = {
    moons: {
      std: 0.06 / 1.4,
      means: along(96, (i) => {
        const [c, s] = [Math.cos(half(i)), Math.sin(half(i))];
        return i < 48 ? [(c - 0.5) / 1.4, (s - 0.25) / 1.4] : [(0.5 - c) / 1.4, (0.25 - s) / 1.4];
      }),
    },
    ring: {
      std: 0.05,
      means: along(64, (i) => [0.7 * Math.cos((i * Math.PI) / 32), 0.7 * Math.sin((i * Math.PI) / 32)]),
    },
    blobs: { std: 0.12, means: Float64Array.of(-0.6, -0.4, 0.6, 0.4) },
    spiral: {
      std: 0.04,
      means: along(96, (i) => {
        const turn = 1.2 + (3.1 * Math.PI * i) / 95;
        return [0.095 * turn * Math.cos(turn), 0.095 * turn * Math.sin(turn)];
      }),
    },
  };

  /** n draws of x_0. */
  function drawData({ means, std }, n, random) {
    const x = new Float64Array(2 * n);
    for (let i = 0; i < n; i++) {
      const k = random.integer(means.length / 2);
      for (const d of [0, 1]) x[2 * i + d] = means[2 * k + d] + std * random.normal();
    }
    return x;
  }

  function drawNoise(n, random) {
    return Float64Array.from({ length: 2 * n }, random.normal);
  }

  /** The teacher D(x, σ) = E[x_0 | x], exact: the means pulled toward x, weighted by how likely each is behind x. */
  function denoise({ means, std }, x, sigma) {
    const [n, K] = [x.length / 2, means.length / 2];
    const [out, distance] = [new Float64Array(2 * n), new Float64Array(K)];
    for (let i = 0; i < n; i++) {
      const [a, b] = [x[2 * i], x[2 * i + 1]];
      const total = std ** 2 + sigma[i] ** 2;
      let nearest = Infinity;
      for (let k = 0; k < K; k++) {
        const [u, v] = [a - means[2 * k], b - means[2 * k + 1]];
        distance[k] = u * u + v * v;
        if (distance[k] < nearest) nearest = distance[k];
      }
      let [sum, p, q] = [0, 0, 0];
      for (let k = 0; k < K; k++) {
        const r = Math.exp((nearest - distance[k]) / (2 * total));
        sum += r;
        p += r * means[2 * k];
        q += r * means[2 * k + 1];
      }
      const shrink = std ** 2 / total;
      out[2 * i] = shrink * a + ((1 - shrink) * p) / sum;
      out[2 * i + 1] = shrink * b + ((1 - shrink) * q) / sum;
    }
    return out;
  }

  /** One step of the teacher from each σ to its σ': Euler's, or Heun's with the mean of the slopes at both ends. */
  function solve(data, x, sigma, next, solver) {
    const slope = (at, level) => denoise(data, at, level).map((D, j) => (at[j] - D) / level[j >> 1]);
    const go = (d) => x.map((value, j) => value + (next[j >> 1] - sigma[j >> 1]) * d[j]);
    const d = slope(x, sigma);
    if (solver === "euler") return go(d);
    const end = slope(go(d), next);
    return go(d.map((value, j) => (value + end[j]) / 2));
  }

  /** The teacher's walk down a grid: the points at every level. */
  function walk(data, x, sigmas, solver) {
    const points = [x];
    const n = x.length / 2;
    for (let i = 0; i + 1 < sigmas.length; i++) {
      const [here, there] = [sigmas[i], sigmas[i + 1]].map((level) => new Float64Array(n).fill(level));
      points.push((x = solve(data, x, here, there, solver)));
    }
    return points;
  }

  // --- the network F: cdedu.networks.MLP with three hidden layers of 48 ------------------------------

  const FEATURES = 8; // cosines and sines of c_noise, 2 c_noise, ..., 8 c_noise
  const WIDTHS = [2 + 2 * FEATURES, 48, 48, 48, 2];
  const LAYERS = WIDTHS.length - 1;
  const shapes = WIDTHS.slice(1).map((rows, l) => [rows, WIDTHS[l]]);
  const SIZE = shapes.reduce((sum, [rows, columns]) => sum + rows * columns + rows, 0);

  /** Weights and biases of each layer, as views into one array, in PyTorch's order. */
  function layersOf(theta) {
    let at = 0;
    const take = (n) => theta.subarray(at, (at += n));
    return shapes.map(([rows, columns]) => ({ W: take(rows * columns), b: take(rows) }));
  }

  /** Random weights, uniform in ±1/√(inputs), as PyTorch's. */
  function newWeights(seed) {
    const [theta, random] = [new Float32Array(SIZE), source(seed)];
    layersOf(theta).forEach(({ W, b }, l) => {
      const most = WIDTHS[l] ** -0.5;
      for (const part of [W, b]) part.forEach((_, i) => (part[i] = most * (2 * random.random() - 1)));
    });
    return theta;
  }

  /** C (m × n) = A (m × k) times Bᵀ, B (n × k); m and n are even. Four sums at a time: twice as fast as one. */
  function multiply(A, B, C, m, n, k) {
    for (let i = 0; i < m; i += 2) {
      for (let j = 0; j < n; j += 2) {
        let s00 = 0;
        let s01 = 0;
        let s10 = 0;
        let s11 = 0;
        for (let p = i * k, q = j * k, end = p + k; p < end; p++, q++) {
          s00 += A[p] * B[q];
          s01 += A[p] * B[q + k];
          s10 += A[p + k] * B[q];
          s11 += A[p + k] * B[q + k];
        }
        C[i * n + j] = s00;
        C[i * n + j + 1] = s01;
        C[(i + 1) * n + j] = s10;
        C[(i + 1) * n + j + 1] = s11;
      }
    }
    return C;
  }

  function transposed(A, m, n) {
    const T = new Float32Array(m * n);
    for (let i = 0; i < m; i++) for (let j = 0; j < n; j++) T[j * m + i] = A[i * n + j];
    return T;
  }

  const sigmoid = (v) => 1 / (1 + Math.exp(-v));

  /** f = c_skip x + c_out F: without its boundary condition only F is left, and nothing ties f to the data. */
  function coefficients(sigma, boundary) {
    const gap = sigma - sigmaMin;
    const root = Math.sqrt(sigma ** 2 + sigmaData ** 2);
    const [skip, out] = boundary ? [sigmaData ** 2 / (gap ** 2 + sigmaData ** 2), (sigmaData * gap) / root] : [0, 1];
    return { skip, out, in: 1 / root };
  }

  /** f_θ(x, σ), and what the backward pass needs of the way there. */
  function forward(theta, x, sigma, boundary = true) {
    const n = sigma.length;
    const input = new Float32Array(n * WIDTHS[0]);
    for (let i = 0; i < n; i++) {
      const c = coefficients(sigma[i], boundary);
      const cNoise = Math.log(sigma[i]) / 4;
      const at = i * WIDTHS[0];
      input[at] = c.in * x[2 * i];
      input[at + 1] = c.in * x[2 * i + 1];
      for (let k = 1; k <= FEATURES; k++) {
        input[at + 1 + k] = Math.cos(k * cNoise);
        input[at + 1 + FEATURES + k] = Math.sin(k * cNoise);
      }
    }
    const [inputs, sums] = [[input], []]; // of each layer, and its sums before SiLU
    layersOf(theta).forEach(({ W, b }, l) => {
      const [rows, columns] = shapes[l];
      const sum = multiply(inputs[l], W, new Float32Array(n * rows), n, rows, columns);
      for (let i = 0; i < n; i++) for (let j = 0; j < rows; j++) sum[i * rows + j] += b[j];
      sums.push(sum);
      if (l < LAYERS - 1) {
        const active = new Float32Array(sum.length);
        for (let j = 0; j < sum.length; j++) active[j] = sum[j] * sigmoid(sum[j]);
        inputs.push(active);
      }
    });
    const f = new Float64Array(2 * n);
    for (let i = 0; i < n; i++) {
      const c = coefficients(sigma[i], boundary);
      for (const j of [2 * i, 2 * i + 1]) f[j] = c.skip * x[j] + c.out * sums[LAYERS - 1][j];
    }
    return { f, inputs, sums, sigma, boundary };
  }

  /** Adds dL/dθ to `gradient`, where df = dL/df: the chain rule, from the last layer to the first. */
  function backward(theta, pass, df, gradient) {
    const n = pass.sigma.length;
    let d = new Float32Array(2 * n); // dL/d(sums of the layer)
    for (let i = 0; i < n; i++) {
      const { out } = coefficients(pass.sigma[i], pass.boundary);
      d[2 * i] = out * df[2 * i];
      d[2 * i + 1] = out * df[2 * i + 1];
    }
    const [layers, gradients] = [layersOf(theta), layersOf(gradient)];
    for (let l = LAYERS - 1; l >= 0; l--) {
      const [rows, columns] = shapes[l];
      const { W, b } = gradients[l];
      const dT = transposed(d, n, rows);
      const product = multiply(
        dT,
        transposed(pass.inputs[l], n, columns),
        new Float32Array(W.length),
        rows,
        columns,
        n,
      );
      for (let j = 0; j < W.length; j++) W[j] += product[j];
      for (let i = 0; i < n; i++) for (let j = 0; j < rows; j++) b[j] += d[i * rows + j];
      if (l === 0) break;
      d = multiply(d, transposed(layers[l].W, rows, columns), new Float32Array(n * columns), n, columns, rows);
      const sum = pass.sums[l - 1];
      for (let j = 0; j < d.length; j++) {
        const s = sigmoid(sum[j]);
        d[j] *= s * (1 + sum[j] * (1 - s)); // the slope of SiLU
      }
    }
  }

  // --- the loss ----------------------------------------------------------------------------------

  /**
   * Consistency distillation on one batch { x0, z, index }: the mean loss, and its gradient with respect to θ.
   *
   *   λ ‖f_θ(x_σ, σ) − f_θ⁻(x̂_σ', σ')‖² / 2,   x_σ = x_0 + σ z,   x̂_σ' = one step of the teacher from σ to σ'
   *
   * Three ways to break it: broken = "boundary", f is the bare network; "gradient", the target gets a gradient, too;
   * "swapped", the target sits at the noisier point, and the cleaner one learns.
   */
  function lossAndGradient(theta, target, batch, { data, sigmas, solver, weight, broken }) {
    const { x0, z, index } = batch;
    const n = index.length;
    const sigma = Float64Array.from(index, (i) => sigmas[i]);
    const next = Float64Array.from(index, (i) => sigmas[i + 1]);
    const x = x0.map((value, j) => value + sigma[j >> 1] * z[j]);
    const xNext = solve(data, x, sigma, next, solver);

    const boundary = broken !== "boundary";
    const [noisier, cleaner] = broken === "swapped" ? [target, theta] : [theta, broken === "gradient" ? theta : target];
    const answer = forward(noisier, x, sigma, boundary);
    const goal = forward(cleaner, xNext, next, boundary);

    let loss = 0;
    const df = new Float64Array(2 * n); // dL/df at the noisier point; at the cleaner one, its opposite
    for (let j = 0; j < 2 * n; j++) {
      const lambda = weight === "uniform" ? 1 : 1 / (sigma[j >> 1] - next[j >> 1]);
      const difference = answer.f[j] - goal.f[j];
      loss += (lambda * difference ** 2) / (2 * n);
      df[j] = (lambda * difference) / n;
    }
    const gradient = new Float32Array(SIZE);
    if (broken !== "swapped") backward(theta, answer, df, gradient);
    if (broken === "swapped" || broken === "gradient")
      backward(
        theta,
        goal,
        df.map((value) => -value),
        gradient,
      );
    return { loss, gradient };
  }

  // --- training ----------------------------------------------------------------------------------

  /** Adam: each weight moves by its mean gradient over its typical size. */
  function adam() {
    const [mean, square] = [new Float32Array(SIZE), new Float32Array(SIZE)];
    let t = 0;
    return (theta, gradient, lr) => {
      t += 1;
      const [most1, most2] = [1 - 0.9 ** t, 1 - 0.999 ** t];
      for (let j = 0; j < SIZE; j++) {
        mean[j] = 0.9 * mean[j] + 0.1 * gradient[j];
        square[j] = 0.999 * square[j] + 0.001 * gradient[j] ** 2;
        theta[j] -= (lr * (mean[j] / most1)) / (Math.sqrt(square[j] / most2) + 1e-8);
      }
    };
  }

  /** average ← rate · average + (1 − rate) θ. */
  function follow(average, theta, rate) {
    for (let j = 0; j < SIZE; j++) average[j] = rate * average[j] + (1 - rate) * theta[j];
  }

  const usual = {
    seed: 0,
    data: "moons",
    N: 18,
    solver: "heun",
    weight: "gap",
    mu: 0,
    lr: 0.006,
    broken: "none",
    batch: 128,
  };

  /** A student in training: step() is one step of it. The four sets of weights are the teacher (exact), θ, θ⁻ and θ̄. */
  function train(asked) {
    const set = { ...usual, ...asked };
    const sigmas = karrasSigmas(set.N, sigmaMin, sigmaMax);
    const data = DATA[set.data];
    const theta = newWeights(set.seed);
    const target = set.mu ? theta.slice() : theta; // μ = 0: the target is the student
    const average = theta.slice();
    const [random, update] = [source(set.seed + 10000), adam()];
    const student = { ...set, data, sigmas, theta, target, average, steps: 0, loss: NaN };

    student.step = () => {
      const n = set.batch;
      const [x0, z] = [drawData(data, n, random), drawNoise(n, random)];
      const index = Int32Array.from({ length: n }, () => random.integer(set.N - 1));
      const { loss, gradient } = lossAndGradient(theta, target, { x0, z, index }, student);
      student.loss = loss;
      update(theta, gradient, set.lr / (1 + student.steps / 3000));
      student.steps += 1;
      if (set.mu) follow(target, theta, set.mu);
      // A young average would remember its start for long, so its rate rises to 0.995.
      follow(average, theta, Math.min(0.995, student.steps / (10 + student.steps)));
    };
    /** The averaged student's answers, at one level for all points or at one for each. */
    student.answer = (x, level) => {
      const sigma = typeof level === "number" ? new Float64Array(x.length / 2).fill(level) : level;
      return forward(average, x, sigma, set.broken !== "boundary").f;
    };
    return student;
  }

  // --- how good it is ------------------------------------------------------------------------------

  /** Sliced Wasserstein distance of two sets of equal size: both projected on directions all around, sorted, and compared. */
  function slicedWasserstein(x, y, directions = 32) {
    let sum = 0;
    for (let k = 0; k < directions; k++) {
      const [c, s] = [Math.cos((Math.PI * k) / directions), Math.sin((Math.PI * k) / directions)];
      const [a, b] = [x, y].map((points) =>
        new Float64Array(points.length / 2).map((_, i) => c * points[2 * i] + s * points[2 * i + 1]).sort(),
      );
      for (let i = 0; i < a.length; i++) sum += (a[i] - b[i]) ** 2 / a.length;
    }
    return Math.sqrt(sum / directions);
  }

  return {
    DATA,
    sigmaMax,
    drawData,
    drawNoise,
    denoise,
    solve,
    walk,
    newWeights,
    forward,
    lossAndGradient,
    adam,
    train,
    slicedWasserstein,
  };
};
