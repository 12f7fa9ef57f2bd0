"""The questions of postgraduate.toml whose numbers are drawn."""

import math
from random import Random

from cdedu.course.quiz.core import Drawn

# --- bridge and chapter 8 ----------------------------------------------------------------------------


def pieces_skip(draw: Random) -> Drawn:
    data, eps, sigma = draw.choice([(0.5, 0.1, 0.7), (0.5, 0.2, 0.9), (0.6, 0.1, 0.9)])
    gap = (sigma - eps) ** 2
    return Drawn(
        f"σ_d = {data:g}, and ε is as large as {eps:g}. What is c_skip of the consistency student at σ = {sigma:g}?",
        data**2 / (gap + data**2),
        {
            data**2
            / (
                sigma**2 + data**2
            ): "That is the teacher's. At σ = ε it is not 1, and f(x, ε) would not be x.",
            gap / (gap + data**2): "That is 1 − c_skip: it would be 0 at σ = ε.",
            data / math.sqrt(gap + data**2): "The squares have no root here.",
        },
        "σ_d²/((σ − ε)² + σ_d²), which is 1 at σ = ε.",
    )


def theorem_order(draw: Random) -> Drawn:
    name, p = draw.choice([("Euler", 1), ("Heun", 2)])
    factor = draw.choice([4, 5, 10])
    return Drawn(
        f"An exact teacher, {name} steps, a student whose loss is zero. The same grid is made finer, so that its longest step Δσ is "
        f"{factor} times shorter. By which factor does the error bound of theorem 1 shrink?",
        float(factor**p),
        {
            1.0: "The bound is of the order (Δσ)^p; the loss is zero, and the solver's error remains.",
            float(factor ** (3 - p)): f"{name} is of order {p}, not {3 - p}.",
            float(factor ** (p + 1)): "That is the error of one step. There are more of them on a finer grid.",
        } if p == 2 else {
            1.0: "The bound is of the order (Δσ)^p; the loss is zero, and the solver's error remains.",
            float(factor**2): "That is the error of one step, or a solver of order 2. There are more steps on a finer grid.",
        },
        f"The student is the composed solver: the error goes like (Δσ)^{p}.",
        tolerance=0.03,
    )  # fmt: skip


# --- chapter 9 ---------------------------------------------------------------------------------------


def scales_curriculum(draw: Random) -> Drawn:
    s0, s1, share = 10, 1280, draw.choice([0.3, 0.55, 0.7])
    doublings = math.floor(8 * share)
    return Drawn(
        f"iCT doubles the steps of its grid at equal intervals, from {s0} in the first of eight to {s1:,} in the last. How many "
        f"*points* has the grid after {share:.0%} of the run?",
        float(s0 * 2**doublings + 1),
        {
            float(s0 * 2**doublings): "That many steps. N counts points, and there is one more.",
            float(s0 * 2 ** (doublings + 1) + 1): "One doubling too many: the first interval has 10 steps.",
            float(round(s0 + share * (s1 - s0)) + 1): "That lets the steps grow evenly. They double.",
            float(
                round(math.sqrt(s0**2 + share * ((s1 + 1) ** 2 - s0**2)))
            ): "That is the first paper's schedule, which grows like a square root.",
            s1 + 1.0: "That is the last interval.",
        },
        "So many intervals as are over, so many doublings; and one point more than steps.",
        tolerance=0.001,
    )


def scales_huber(draw: Random) -> Drawn:
    side = draw.choice([32, 64])
    dim = 3 * side**2
    return Drawn(
        f"iCT's pseudo-Huber distance has c = .00054 √dim. Which c belongs to color images of {side} × {side}?",
        0.00054 * math.sqrt(dim),
        {
            0.00054: "The root of the dimension is missing.",
            0.00054 * dim: "The dimension enters by its root: c is a length, and lengths of images grow so.",
            0.00054 * side: "Three channels count as well: dim is the number of all values.",
        },
        "The distance is of whole images, whose lengths grow like the root of the dimension.",
    )


def scales_easy(draw: Random) -> Drawn:
    stage = draw.choice([1, 2, 3])
    return Drawn(
        f"ECT pairs σ with r = σ(1 − q^−(s+1) · n(σ)), and at large σ the factor n(σ) is 1. With q = 2, what is r/σ there at stage "
        f"s = {stage}?",
        1 - 2.0 ** -(stage + 1),
        {
            2.0 ** -(stage + 1): "That is the gap (σ − r)/σ; r/σ is what is left of 1.",
            1 - 2.0**-stage: "The exponent is s + 1: at stage 0 the ratio is one half already.",
            1.0: "r approaches σ only in the limit.",
        },
        "With each stage the pair moves together: 1/2, 3/4, 7/8, 15/16.",
    )  # fmt: skip


def scales_trig(draw: Random) -> Drawn:
    sigma = draw.choice([0.25, 1.0, 2.0])
    return Drawn(
        f"TrigFlow with σ_d = 0.5: which t belongs to σ = {sigma:g}?",
        math.atan(sigma / 0.5),
        {
            math.atan(sigma): "σ is to be measured in units of σ_d first.",
            sigma / 0.5: "That is tan t.",
            math.atan(0.5 / sigma): "The ratio is flipped: t = 0 is clean data.",
        },
        "t = arctan(σ/σ_d), from 0 at the data to nearly π/2 at noise.",
    )


# --- chapters 10 to 12 -------------------------------------------------------------------------------


def trade_floor(draw: Random) -> Drawn:
    n, value = draw.choice([(1000, 8.4), (2000, 30.0), (500, 17.0)])
    return Drawn(
        f"Two sets of {n:,} samples of one and the same Gaussian have a Fréchet distance of {value:g}. About what is it with "
        f"{4 * n:,} samples?",
        value / 4,
        {
            value / 2: "The bias falls like 1/n, not like its root.",
            value: "The truth is zero; what is seen is bias, and it falls with n.",
            0.0: "It goes to zero, and is not there yet.",
        },
        "The bias of a finite sample falls like 1/n.",
        tolerance=0.1,
    )


def trade_half_life(draw: Random) -> Drawn:
    rate = draw.choice([0.999, 0.9995, 0.9999])
    return Drawn(
        f"After how many steps has a moving average with rate {rate} forgotten half of what it held?",
        math.log(0.5) / math.log(rate),
        {
            1
            / (1 - rate): "That is the mean age of its weights, 1/(1 − r). The half-life is ln 2 times that.",
            0.5 / (1 - rate): "Each step forgets a share of what is left, so it is a logarithm.",
        },
        "ln ½ / ln r. A run much shorter than that shows pictures of the past.",
    )


def trade_evaluations(draw: Random) -> Drawn:
    name, cost = draw.choice([("distillation with Heun", 6), ("consistency training", 4)])
    steps, batch = 800_000, 512
    return Drawn(
        f"The paper's CIFAR-10 run has {steps:,} steps of {batch} images. How many network evaluations (backward = 2) is that for "
        f"{name}, in units of a thousand million?",
        cost * steps * batch / 1e9,
        {
            steps * batch / 1e9: "Those are images. Each costs several evaluations.",
            3 * steps * batch / 1e9: "That is the student's own forward and backward pass only.",
            (10 - cost) * steps * batch / 1e9: "That is the other method: six with a Heun teacher, four without any.",
        },
        f"{cost} evaluations an image, 410 million images.",
    )  # fmt: skip


def trade_repaid(draw: Random) -> Drawn:
    cost, slow, fast = draw.choice([(2.5e9, 35, 1), (6.0e8, 79, 2), (1.2e9, 35, 2)])
    return Drawn(
        f"A distillation cost {cost / 1e6:,.0f} million evaluations. The teacher needs {slow} a sample, the student {fast}. After how "
        "many million samples is it repaid?",
        cost / (slow - fast) / 1e6,
        {
            cost / slow / 1e6: "A sample saves the difference of the two, not the teacher's whole walk.",
            cost / fast / 1e6: "Divide by what a sample saves.",
            cost / (slow + fast) / 1e6: "Subtract the two: that is what a sample saves.",
        },
        "Cost over saving, and the saving is the difference.",
        tolerance=0.008,
    )  # fmt: skip


def trade_frontier(draw: Random) -> Drawn:
    steps, values = [1, 2, 4, 8], draw.choice([(48, 45, 46, 40), (60, 44, 42, 43), (52, 55, 45, 41)])
    best = [min(values[: i + 1]) for i in range(4)]
    beaten = [i for i in range(4) if values[i] > best[i]]
    (loser,) = beaten
    wrong = {
        float(steps[i]): f"With fewer calls no method of the list reaches {values[i]}; it is on the frontier."
        for i in range(4)
        if i != loser
    }
    listed = ", ".join(f"{n}: {value}" for n, value in zip(steps, values, strict=True))
    return Drawn(
        f"Four methods, by calls and Fréchet distance (equal samples, scatter aside): {listed}. One of them is not on the frontier. "
        "How many calls does it make?",
        float(steps[loser]),
        wrong,
        "Another one makes fewer calls and has the smaller distance.",
        tolerance=0.005,
    )


# --- chapter 13 --------------------------------------------------------------------------------------


def any_sigma(draw: Random) -> Drawn:
    alpha = draw.choice([0.1, 0.2, 0.8, 0.9])
    return Drawn(
        f"A DDPM stands at a time with ᾱ = {alpha:g}. Which σ is that?",
        math.sqrt((1 - alpha) / alpha),
        {
            math.sqrt(1 - alpha): "That is the noise beside √ᾱ x₀. Divide by √ᾱ, so that x₀ stands alone.",
            (1 - alpha) / alpha: "That is σ².",
            math.sqrt(alpha / (1 - alpha)): "The ratio is flipped: ᾱ near 1 is clean.",
        },
        "x_t = √ᾱ (x₀ + σz), so σ = √((1 − ᾱ)/ᾱ).",
    )


def any_error(draw: Random) -> Drawn:
    error, sigma = draw.choice([(0.1, 20.0), (0.05, 80.0), (0.02, 40.0)])
    return Drawn(
        f"A network that predicts ε is off by {error:g} at σ = {sigma:g}. By how much is its denoiser D = x − σε off?",
        error * sigma,
        {
            error: "In D the error of ε is multiplied by σ. A network that predicts x₀ would be off by that much.",
            error / sigma: "It is multiplied by σ, not divided.",
            error * sigma**2: "σ enters once.",
        },
        "A sampler only needs a direction there, and later steps repair the rest; a one-step student has no later steps.",
    )


def guided_value(draw: Random) -> Drawn:
    free, given, w = draw.choice([(0.2, 0.5, 3.0), (0.1, 0.4, 2.0), (-0.1, 0.3, 5.0)])
    return Drawn(
        f"At one pixel the unconditional guess is {free:g} and the conditional one {given:g}. What is the guided guess for w = {w:g}, "
        "with D_w = D_∅ + w(D_y − D_∅)?",
        free + w * (given - free),
        {
            given + w * (given - free): "That starts from the conditional guess: the other convention, with 1 + w.",
            given: "That is w = 1.",
            w * given: "The difference is multiplied, not the guess.",
        },
        "From the unconditional guess, w times the way to the conditional one, and beyond it for w > 1.",
    )  # fmt: skip


def guided_calls(draw: Random) -> Drawn:
    n = draw.choice([12, 18, 24])
    calls = 2 * n - 1
    return Drawn(
        f"A guided teacher walks {n} points with Heun and a last step to 0. How many network calls is that?",
        2.0 * calls,
        {
            float(calls): "Each denoiser is two calls: with the label and without.",
            4.0 * n: f"{n} points are {n - 1} steps of Heun, and one of Euler.",
            4.0 * (n - 1): "That leaves out the last step to 0.",
        },
        "Twice as many: guidance doubles what distillation saves.",
        tolerance=0.005,
    )


# --- chapter 15 --------------------------------------------------------------------------------------


def adversarial_hinge(draw: Random) -> Drawn:
    real, fake = draw.choice([(0.4, -0.3), (1.5, -0.5), (0.2, 0.6), (-0.5, -2.0)])
    right = max(0.0, 1 - real) + max(0.0, 1 + fake)
    wrong = {
        max(0.0, 1 + real)
        + max(0.0, 1 - fake): "The signs are flipped: real ones should score above 1, fakes below −1.",
        fake - real: "The hinge is missing: beyond the margin of 1 nothing is to be gained.",
        -right: "A loss of hinges is never negative.",
    }
    return Drawn(
        f"A discriminator gives a real picture {real:g} and a fake {fake:g}. What is its hinge loss, max(0, 1 − real) + max(0, 1 + fake)?",
        right,
        wrong,
        "Each side pays only within the margin.",
    )  # fmt: skip


def matching_gradient(draw: Random) -> Drawn:
    x, real, fake = draw.choice([(1.0, 0.6, 0.8), (0.5, 0.0, 0.2), (-1.0, -0.2, -0.6)])
    gradient = (fake - real) / abs(x - real)
    return Drawn(
        f"Distribution matching in one dimension: the student's sample is x = {x:g}; from its noisy version the real denoiser guesses "
        f"{real:g} and the fake one {fake:g}. What is the gradient at x, (D_fake − D_real)/|x − D_real|?",
        gradient,
        {
            -gradient: "The sign is flipped: descent along it would lead away from the data.",
            fake - real: "The division by |x − D_real| is missing; it makes all noise levels weigh alike.",
            (fake - real) / abs(x - fake): "The norm is the distance to the real guess.",
        },
        "Descent moves x from what the student tends to draw toward what the data would have there.",
    )


# --- chapters 16 and 17 ------------------------------------------------------------------------------


def beyond_attention(draw: Random) -> Drawn:
    frames = draw.choice([4, 8, 16])
    return Drawn(
        f"A picture model attends over all its positions. A video of {frames} frames is given to it as one set of positions. By which "
        "factor does the number of attention scores grow?",
        float(frames**2),
        {
            float(frames): "That is the factor for the positions. Attention compares all pairs.",
            2.0 * frames: "Pairs grow like the square.",
            float(frames**3): "Only pairs are compared.",
        },
        "Positions times frames, pairs times frames squared; hence attention over space and over time apart.",
    )  # fmt: skip


def frontier_clock(draw: Random) -> Drawn:
    t = draw.choice([0.6, 0.75, 0.8, 0.9])
    return Drawn(
        f"A flow paper mixes x_t = (1 − t) x₀ + t z. Which σ of ours is its t = {t:g}?",
        t / (1 - t),
        {
            t: "Divide x_t by 1 − t first, so that x₀ stands alone.",
            (1 - t) / t: "Flipped: t = 0 is clean data.",
            t
            / math.sqrt(
                (1 - t) ** 2 + t**2
            ): "That would keep the variance; here x₀ is to have the factor 1.",
        },
        "x_t = (1 − t)(x₀ + σ z) with σ = t/(1 − t).",
    )
