"""The postgraduate pool, in the order of the chapters."""

import math
from random import Random

from cdedu.course.quiz.core import Drawn, choice, question

PIECES = "Which pieces of distillation matter, and how one finds out"
THEOREM = "The student without loss is the composed solver, and a theorem can be measured"
SCALES = "Consistency regularisation across noise scales"
TRADE = "Fidelity against efficiency"
ADVERSARIAL = "Consistency distillation against adversarial distillation (SD Turbo)"
MATCHING = "Distribution matching: two denoisers, and their disagreement as a gradient"
BEYOND = "Extending to text-to-video and 3-D"
ANY = "Any diffusion model is a denoiser in σ, on another scale and under another name"
GUIDED = "A guided denoiser is a denoiser, and guidance can be distilled with the steps"

# --- bridge and chapter 8 ----------------------------------------------------------------------------

choice(
    "pieces-roles", PIECES, "postgraduate/bridge",
    "On CIFAR-10 the paper takes μ = 0 and an average with rate .9999. Which role does the average play?",
    "It generates afterwards, and nothing in the loss sees it",
    {
        "It is the target": "With μ = 0 the target is the student itself with its gradient stopped.",
        "It is the teacher": "The teacher φ is frozen and comes from another run.",
        "It starts the next round": "There are no rounds; that is progressive distillation.",
    },
    "Teacher, student, target and sampling average are four roles; μ = 0 makes two of them one set of weights.",
)  # fmt: skip


@question("pieces-skip", PIECES, "postgraduate/08_anatomy")
def _(draw: Random) -> Drawn:
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


choice(
    "pieces-anchor", PIECES, "postgraduate/08_anatomy",
    "At which step of the grid does the target of distillation owe nothing to the student's network or its average?",
    "At the last one, where the target is the teacher's point at ε",
    {
        "At the first one, at σ = T": "There the target is the student's own answer one level lower.",
        "At none": "At ε the wrapping switches the network off: f(x̂, ε) = x̂.",
        "At all, since its gradient is stopped": "A stopped gradient does not change whose answer it is.",
    },
    "Only there does an answer come from outside the student; the rest is passed up the grid.",
)  # fmt: skip


@question("theorem-order", THEOREM, "postgraduate/08_anatomy")
def _(draw: Random) -> Drawn:
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


choice(
    "theorem-walk",
    THEOREM,
    "postgraduate/08_anatomy",
    "How can theorem 1 be measured without training anything?",
    "The student without loss is the composed solver, so one walks the teacher's grid and compares with the exact end",
    {
        "By the loss of the last step": "The loss is zero in the theorem; what it bounds is the distance from the exact f.",
        "By a very long training": "Training adds an error of its own, which the theorem does not speak of.",
        "By the distance between two samplers": "Two solvers have two errors. The exact end of the path is wanted, and exact teachers have it.",
    },
    "Zero loss at every step means one call equals the whole walk.",
)
choice(
    "pieces-distance", PIECES, "postgraduate/11_full_scale",
    "Student A is trained with ℓ2 and student B with LPIPS. B has the better FID. What must be kept in mind?",
    "LPIPS and FID both look through networks trained on ImageNet, so part of the gain may be one of the ruler",
    {
        "Nothing: FID is independent of the training loss": "Inception and VGG were trained on the same labels; B was told what the ruler looks at.",
        "LPIPS students see more images": "They see as many; each costs more.",
        "FID cannot compare two distances": "It compares samples, whatever made them. The leak is what matters.",
    },
    "How large that part is, FID alone cannot say.",
)  # fmt: skip

# --- chapter 9 ---------------------------------------------------------------------------------------


@question("scales-curriculum", SCALES, "postgraduate/09_noise_scales")
def _(draw: Random) -> Drawn:
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


@question("scales-huber", SCALES, "postgraduate/09_noise_scales")
def _(draw: Random) -> Drawn:
    side = draw.choice([32, 64])
    dim = 3 * side**2
    return Drawn(
        f"iCT's pseudo-Huber distance has c = .00054 √dim. Which c belongs to colour images of {side} × {side}?",
        0.00054 * math.sqrt(dim),
        {
            0.00054: "The root of the dimension is missing.",
            0.00054 * dim: "The dimension enters by its root: c is a length, and lengths of images grow so.",
            0.00054 * side: "Three channels count as well: dim is the number of all values.",
        },
        "The distance is of whole images, whose lengths grow like the root of the dimension.",
    )


choice(
    "scales-elementwise", SCALES, "postgraduate/09_noise_scales",
    "A port computes √((x−y)² + c²) − c for each pixel with the c of the whole image, and takes the mean. What is wrong?",
    "c is far too large for a pixel, so that the distance is a square and no longer forgives outliers",
    {
        "Nothing, up to a constant factor": "The root of a sum is not the sum of roots: the bend of the curve sits somewhere else.",
        "c is far too small, so that it is an ℓ1 distance": "c of the whole image is √dim times larger than a pixel's would be.",
        "It is not differentiable at zero": "It is, for every c > 0.",
    },
    "Either the length of the whole image with this c, or a c for one pixel.",
)  # fmt: skip
choice(
    "scales-weight", SCALES, "postgraduate/09_noise_scales",
    "iCT weights each term by λ = 1/(σᵢ − σᵢ₊₁). What does that do?",
    "It keeps the short steps at low noise from being drowned by the long ones",
    {
        "It makes all terms equally large at the start": "It does not normalise the terms; it divides by the gap.",
        "It removes the bias of a coarse grid": "The bias is in the answers; a weight does not change what a level learns.",
        "It stops the gradient at high noise": "High levels count less, but their gradient is there.",
    },
    "Neighbours that are close disagree little, and without a weight their terms would hardly count.",
)  # fmt: skip


@question("scales-easy", SCALES, "postgraduate/09_noise_scales")
def _(draw: Random) -> Drawn:
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


choice(
    "scales-zero", SCALES, "postgraduate/09_noise_scales",
    "ECT's formula for r is cut off at 0, at small σ in early stages. What is the target there?",
    "The clean x₀, and no network is called for it",
    {
        "f at ε": "ECT uses EDM's own wrapping without an ε; at r = 0 nothing has to be computed.",
        "The teacher's guess": "ECT starts from a teacher's weights and then has no teacher.",
        "Zero": "r is a noise level; at level zero stands the data point itself.",
    },
    "With r = 0 it is the denoising loss: the diffusion model is the first stage of the curriculum.",
)  # fmt: skip


@question("scales-trig", SCALES, "postgraduate/09_noise_scales")
def _(draw: Random) -> Drawn:
    sigma = draw.choice([0.25, 1.0, 2.0])
    return Drawn(
        f"TrigFlow with σ_d = 0.5: which t belongs to σ = {sigma:g}?",
        math.atan(sigma / 0.5),
        {
            math.atan(sigma): "σ is to be measured in units of σ_d first.",
            sigma / 0.5: "That is tan t.",
            math.atan(0.5 / sigma): "The ratio is turned round: t = 0 is clean data.",
        },
        "t = arctan(σ/σ_d), from 0 at the data to nearly π/2 at noise.",
    )


choice(
    "scales-tangent", SCALES, "postgraduate/09_noise_scales",
    "In the continuous limit the tangent is divided by (its norm + 0.1). What for?",
    "So that single long tangents do not rule the step: its length varies by orders of magnitude",
    {
        "So that its gradient does not flow": "The tangent is computed from the stopped network anyway.",
        "So that the boundary condition holds": "TrigFlow's wrapping sees to that: at t = 0 it is x.",
        "So that Heun's method can be used": "There is no solver left in the limit.",
    },
    "It is one of three cures, beside the slow clock and the warm-up. In the chapter's small case the clock did the work.",
)  # fmt: skip
choice(
    "scales-jvp", SCALES, "postgraduate/09_noise_scales",
    "How does sCM get dF/dt along the path?",
    "By a Jacobian-vector product in forward mode, along (dx/dt, 1)",
    {
        "By two calls at neighbouring t and their difference": "That is the discrete loss, with the rounding error that the limit was meant to avoid.",
        "By a backward pass for each output": "That would be one pass for every pixel.",
        "From the optimiser's moments": "Those are derivatives with respect to weights.",
    },
    "One forward pass carries the derivative along.",
)  # fmt: skip
choice(
    "scales-rounding", SCALES, "postgraduate/09_noise_scales",
    "Discrete consistency models get worse again beyond about a thousand grid points. Why, mostly?",
    "Neighbours differ by so little that rounding decides their difference",
    {
        "The solver's error grows with N": "It falls with N, like a power of the gap.",
        "There are too many levels for one network": "A network serves all levels between ε and T; the grid only says which are compared.",
        "The loss becomes too large": "It becomes smaller and smaller.",
    },
    "Hence the grid in double precision, and the continuous limit with a derivative in place of a difference.",
)  # fmt: skip

# --- chapters 10 to 12 -------------------------------------------------------------------------------


@question("trade-floor", TRADE, "postgraduate/11_full_scale")
def _(draw: Random) -> Drawn:
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


@question("trade-half-life", TRADE, "postgraduate/11_full_scale")
def _(draw: Random) -> Drawn:
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


@question("trade-evaluations", TRADE, "postgraduate/10_cifar10")
def _(draw: Random) -> Drawn:
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


choice(
    "trade-time", TRADE, "postgraduate/10_cifar10",
    "What c_noise = 250 ln σ does in bf16, in a network that embeds it by sines and cosines:",
    "It is off by more than a radian at places, so it is computed in fp32",
    {
        "Nothing: bf16 has the range of fp32": "It has the range, and eight significant bits: near 1,000 it moves in steps of 4 to 8.",
        "It overflows at σ = 80": "1,096 is far from the limits of bf16. The spacing is the trouble.",
        "It slows the network down": "It is one number an image.",
    },
    "Precision, not range, is what bf16 gives up.",
)  # fmt: skip


@question("trade-repaid", TRADE, "postgraduate/12_tradeoffs")
def _(draw: Random) -> Drawn:
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


@question("trade-frontier", TRADE, "postgraduate/12_tradeoffs")
def _(draw: Random) -> Drawn:
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


choice(
    "trade-recall", TRADE, "postgraduate/12_tradeoffs",
    "On ImageNet-64 the paper's one-step student has precision .68 and recall .63; the teacher has .71 and .67. What has been lost?",
    "Some of both: fidelity and diversity",
    {
        "Fidelity only": "Recall has fallen as well, from .67 to .63.",
        "Diversity only": "Precision has fallen as well, from .71 to .68.",
        "Nothing that FID would notice": "FID rises from 2.44 to 6.20.",
    },
    "One number cannot tell the two apart; precision and recall can.",
)  # fmt: skip
choice(
    "trade-least", TRADE, "postgraduate/11_full_scale",
    "A FID of 1.97 is the least of three evaluations with different seeds. Held against a median of seeds it is",
    "flattering, by most of a standard deviation on average",
    {
        "a fair estimate": "The least of three draws lies below the mean, by .85 standard deviations for a normal distribution.",
        "too pessimistic": "The least is the best of the three.",
        "not defined": "It is well defined; one has to say that it was taken.",
    },
    "Re-measured it is 2.04 to 2.08. Say which statistic is reported.",
)  # fmt: skip
choice(
    "trade-batch", TRADE, "postgraduate/11_full_scale",
    "A recipe has a batch of 512. You start it on eight GPUs instead of one. What is its batch now?",
    "512: the recipe's batch is the global one",
    {
        "4,096": "Then it would be another run. More GPUs make the same run faster.",
        "64": "That is each GPU's part; the optimiser's step still sees 512 images.",
        "It depends on the launcher": "The launcher starts processes; the recipe says how many images a step has.",
    },
    "Noise depends on the seed, the step and the place in the global batch, so the run is the same one.",
)  # fmt: skip

# --- chapter 13 --------------------------------------------------------------------------------------


@question("any-sigma", ANY, "postgraduate/13_any_teacher")
def _(draw: Random) -> Drawn:
    alpha = draw.choice([0.1, 0.2, 0.8, 0.9])
    return Drawn(
        f"A DDPM stands at a time with ᾱ = {alpha:g}. Which σ is that?",
        math.sqrt((1 - alpha) / alpha),
        {
            math.sqrt(1 - alpha): "That is the noise beside √ᾱ x₀. Divide by √ᾱ, so that x₀ stands alone.",
            (1 - alpha) / alpha: "That is σ².",
            math.sqrt(alpha / (1 - alpha)): "The ratio is turned round: ᾱ near 1 is clean.",
        },
        "x_t = √ᾱ (x₀ + σz), so σ = √((1 − ᾱ)/ᾱ).",
    )


@question("any-error", ANY, "postgraduate/13_any_teacher")
def _(draw: Random) -> Drawn:
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


choice(
    "any-range", ANY, "postgraduate/13_any_teacher",
    "DDPM's usual schedule begins at σ = 0.01. What follows for a student with ε = 0.002?",
    "The anchor at ε rests on answers that the teacher never learned: take ε ≥ 0.01",
    {
        "Nothing: f(x, ε) = x holds in any case": "It does, and says nothing about the target beside it, which comes from the teacher.",
        "The student cannot be built": "It can, and no error is raised. That is the danger.",
        "The teacher has to be trained again": "It is enough to let the grid end where the teacher's knowledge ends.",
    },
    "Below its range an adapter answers as at t = 0.",
)  # fmt: skip
choice(
    "any-look", ANY, "postgraduate/13_any_teacher",
    "A teacher is given and its data are lost. What can stand in for them in the loss?",
    "The teacher's own samples: something has to say where to compare",
    {
        "Nothing is needed: the targets come from the teacher": "The targets do. The points at which they are asked for must come from somewhere.",
        "Zeros, with noise added": "Then every look at little noise is at the origin, where no path ends. Such a student learned nothing.",
        "Nothing can": "On two moons the teacher's samples did as well as the data.",
    },
    "The data say where to look, the teacher says what is right.",
)  # fmt: skip
choice(
    "any-pickle", ANY, "postgraduate/13_any_teacher",
    "Why does this course's reader of EDM checkpoints not simply call pickle.load?",
    "A pickle is a program: it can name any function and have it called",
    {
        "Pickles are too slow for large tensors": "Speed is not the matter; loading runs code.",
        "The file does not say which network it holds": "It does, by the names that it asks for; the reader uses just that.",
        "PyTorch forbids it": "torch.load refuses pickles by default; pickle.load does as it is told.",
    },
    "The reader hands out recorders for some ten known names and stops at every other.",
)  # fmt: skip
choice(
    "any-same", ANY, "postgraduate/13_any_teacher",
    "In which scale of x is DDIM's step (η = 0) the same as Euler's step in σ?",
    "In x/√ᾱ = x₀ + σz",
    {
        "In x itself, as DDPM stores it": "There the points shrink by √ᾱ as well; divide by it first.",
        "In none: they are two samplers": "They agree to rounding once both stand on one scale.",
        "In x/√(1 − ᾱ)": "Then the noise would stand alone, and x₀ would have a factor.",
    },
    "Divide the new point by its √ᾱ: x̂₀ + σ′ε̂, which is Euler's step.",
)  # fmt: skip


@question("guided-value", GUIDED, "postgraduate/13_any_teacher")
def _(draw: Random) -> Drawn:
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


@question("guided-calls", GUIDED, "postgraduate/13_any_teacher")
def _(draw: Random) -> Drawn:
    n = draw.choice([12, 18, 24])
    calls = 2 * n - 1
    return Drawn(
        f"A guided teacher walks {n} points with Heun and a last step to 0. How many network calls are that?",
        2.0 * calls,
        {
            float(calls): "Each denoiser is two calls: with the label and without.",
            4.0 * n: f"{n} points are {n - 1} steps of Heun, and one of Euler.",
            4.0 * (n - 1): "That leaves out the last step to 0.",
        },
        "Twice as many: guidance doubles what distillation saves.",
        tolerance=0.005,
    )


choice(
    "guided-sharper", GUIDED, "postgraduate/13_any_teacher",
    "With w = 3 a classifier recognises every sample, and the distance to the data rises. How can that be?",
    "Guidance samples another distribution, beyond the class's centre and with less spread",
    {
        "The classifier is wrong": "It is right: these samples are typical beyond what is typical of the data.",
        "The sampler needs more steps": "The guided denoiser itself points elsewhere; more steps follow it more exactly.",
        "The distance is only noise": "It rises with w, also with exact denoisers.",
    },
    "Who reports fidelity at some w owes the variety at the same w.",
)  # fmt: skip
choice(
    "guided-slider", GUIDED, "postgraduate/14_latent",
    "How does a latent consistency model get a guidance slider, though it makes one call?",
    "A weight w is drawn for each training sample and told to the student",
    {
        "It is guided by two calls at sampling time": "That is the teacher's way. The student has learned the guided answer for each w.",
        "A student is trained for each w": "One student serves all; w is one of its inputs.",
        "By scaling its output with w": "Guidance is no scaling; it moves along the difference of two guesses.",
    },
    "w enters by an embedding, like the noise level.",
)  # fmt: skip
choice(
    "guided-skip", GUIDED, "postgraduate/14_latent",
    "Latent consistency distillation compares points that are twenty of a thousand time steps apart. Why not neighbours?",
    "Neighbours of a thousand hardly differ, and news would travel slowly",
    {
        "The autoencoder cannot resolve them": "The autoencoder knows nothing of time steps.",
        "DDIM is only defined for long steps": "It is Euler's step, and the better the shorter.",
        "The teacher knows only fifty of them": "It knows all thousand; fifty are chosen as the grid.",
    },
    "A grid of fifty points is a compromise between the solver's error and the length of the chain.",
)  # fmt: skip

# --- chapter 15 --------------------------------------------------------------------------------------

choice(
    "adversarial-ask", ADVERSARIAL, "postgraduate/15_adversarial",
    "In adversarial distillation, on what is the teacher's guess taken for the distillation term?",
    "On the student's own sample, with noise added again",
    {
        "On data with noise": "The term would be a denoising loss, and one step would learn the mean. The teacher is to judge what the student made.",
        "On the student's sample as it is": "A denoiser returns a clean picture as it is. Noise gives it something to say.",
        "On the discriminator's features": "The discriminator looks at those; the teacher denoises pictures.",
    },
    "It draws the student's sample towards what the teacher believes in, wherever the other samples are.",
)  # fmt: skip
choice(
    "adversarial-turbo", ADVERSARIAL, "postgraduate/15_adversarial",
    "SD Turbo and latent consistency models both make pictures in one to four calls. What is the main difference?",
    "SD Turbo's main ingredient is a discriminator; an LCM is trained for consistency",
    {
        "An LCM has no teacher": "It is distilled from Stable Diffusion, as SD Turbo is.",
        "SD Turbo works on pixels": "Both networks work behind an autoencoder; only SD Turbo's discriminator looks at decoded pictures.",
        "SD Turbo keeps the teacher's paths": "A discriminator judges samples; it does not ask which noise they came from.",
    },
    "One is told whether a sample looks real, the other that neighbours on a path agree.",
)  # fmt: skip
choice(
    "adversarial-modes", ADVERSARIAL, "postgraduate/15_adversarial",
    "Two students have equal precision; one was trained with a discriminator alone. Which measurement would you make first, and why?",
    "Recall, or a count of modes: a discriminator does not complain about what is never drawn",
    {
        "Speed, since a discriminator slows sampling": "It is not used in sampling.",
        "The loss of the discriminator": "That is a game's score; it has no good value.",
        "The distance to the nearest training picture": "Worth a look for every generator; dropping modes is what this loss permits.",
    },
    "What is missing is not among the samples that the discriminator sees. Where noise levels are pooled before it, each of them may drop half.",
)  # fmt: skip


@question("adversarial-hinge", ADVERSARIAL, "postgraduate/15_adversarial")
def _(draw: Random) -> Drawn:
    real, fake = draw.choice([(0.4, -0.3), (1.5, -0.5), (0.2, 0.6), (-0.5, -2.0)])
    right = max(0.0, 1 - real) + max(0.0, 1 + fake)
    wrong = {
        max(0.0, 1 + real)
        + max(0.0, 1 - fake): "The signs are turned round: real ones should score above 1, fakes below −1.",
        fake - real: "The hinge is missing: beyond the margin of 1 nothing is to be gained.",
        -right: "A loss of hinges is never negative.",
    }
    return Drawn(
        f"A discriminator gives a real picture {real:g} and a fake {fake:g}. What is its hinge loss, max(0, 1 − real) + max(0, 1 + fake)?",
        right,
        wrong,
        "Each side pays only within the margin.",
    )  # fmt: skip


@question("matching-gradient", MATCHING, "postgraduate/15_adversarial")
def _(draw: Random) -> Drawn:
    x, real, fake = draw.choice([(1.0, 0.6, 0.8), (0.5, 0.0, 0.2), (-1.0, -0.2, -0.6)])
    gradient = (fake - real) / abs(x - real)
    return Drawn(
        f"Distribution matching in one dimension: the student's sample is x = {x:g}; from its noisy version the real denoiser guesses "
        f"{real:g} and the fake one {fake:g}. What is the gradient at x, (D_fake − D_real)/|x − D_real|?",
        gradient,
        {
            -gradient: "The sign is turned round: descent along it would lead away from the data.",
            fake - real: "The division by |x − D_real| is missing; it makes all noise levels weigh alike.",
            (fake - real) / abs(x - fake): "The norm is the distance to the real guess.",
        },
        "Descent moves x from what the student tends to draw towards what the data would have there.",
    )


choice(
    "matching-fake", MATCHING, "postgraduate/15_adversarial",
    "Distribution matching trains a second denoiser beside the student. On what?",
    "On the student's own samples, all the time, since they change",
    {
        "On the data": "That one is there already: the teacher. The second one has to know what the student draws.",
        "On the teacher's samples": "They would make a copy of the teacher, and the difference of the two would vanish.",
        "On the student's samples, once at the start": "The student moves on, and the gradient would point away from where it was.",
    },
    "The gradient is the disagreement of two denoisers: one of the data, one of what the student draws now. It is zero where they agree.",
)  # fmt: skip
choice(
    "adversarial-path", ADVERSARIAL, "postgraduate/15_adversarial",
    "For which of the two students does the same noise as the teacher's give nearly the teacher's picture?",
    "For the consistency student, since it is trained along the teacher's paths",
    {
        "For the adversarial one": "A discriminator asks whether a sample looks real, not from which noise it came.",
        "For both": "Only one of the losses knows which noise belongs to which picture.",
        "For neither": "In the chapter's toy the consistency student ends close to the teacher's point, the adversarial one mostly at another mode.",
    },
    "One loss compares points of a path, the other compares sets.",
)  # fmt: skip

# --- chapters 16 and 17 ------------------------------------------------------------------------------


@question("beyond-attention", BEYOND, "postgraduate/16_video_3d")
def _(draw: Random) -> Drawn:
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


choice(
    "beyond-frames", BEYOND, "postgraduate/16_video_3d",
    "A student of pictures is applied to each frame of a video, with fresh noise for each. What is wrong with the result?",
    "Each frame is fine, and neighbouring frames have nothing to do with each other",
    {
        "The frames are blurred": "Each frame is a sample like any other.",
        "The frames are all the same": "That would need the same noise for all.",
        "It takes too long": "It is one call a frame, and they can share a batch.",
    },
    "The frames of a clip are one data point; a loss and a noise for the whole clip know that.",
)  # fmt: skip
choice(
    "beyond-measure", BEYOND, "postgraduate/16_video_3d",
    "A distance between sets of single frames is excellent. What does it not see?",
    "Whether the frames of a clip fit together",
    {
        "Whether the frames are sharp": "That it does see: blurred frames have other features.",
        "Whether all objects occur": "That it does see, through the covariance.",
        "Whether the sample is large enough": "That is what the floor is for.",
    },
    "Shuffle the frames between clips: the distance does not change. So measure along time as well.",
)  # fmt: skip
choice(
    "beyond-views", BEYOND, "postgraduate/16_video_3d",
    "Views of an object from eight sides are generated, each by itself. What is likely to go wrong?",
    "The views do not belong to one object",
    {
        "The views are not sharp": "Each is a sample of its own, as sharp as any.",
        "Only the front view exists": "Each view is asked for, and each is drawn.",
        "Nothing, if the teacher is good": "A good teacher of single views says nothing about pairs of views.",
    },
    "The views are one data point, like the frames of a clip: noise, network and loss must see them together.",
)  # fmt: skip
choice(
    "beyond-coco", BEYOND, "postgraduate/16_video_3d",
    "Text-to-image models report FID on COCO captions and a CLIP score. Why both?",
    "FID compares sets of pictures and ignores the text; the CLIP score compares a picture with its caption",
    {
        "They are two estimates of one thing": "Shuffle the captions: FID stays, the CLIP score falls.",
        "FID is for pictures, the CLIP score for videos": "Both are for pictures, and carried over to videos.",
        "The first paper on consistency models did so": "COCO does not occur in that paper.",
    },
    "A model may be realistic and deaf, or obedient and ugly.",
)  # fmt: skip
choice(
    "beyond-papers", BEYOND, "postgraduate/17_frontier",
    "A new method reports a one-step FID of 2.5 on CIFAR-10. What has to be known before it can stand in your table?",
    "Samples, reference split, seeds and their statistic, labels and guidance, and whether the loss saw ImageNet features",
    {
        "Only whether it was one step or two": "Each of the other choices moves FID by more than such methods differ.",
        "The training time": "Worth knowing, but it does not change what the number means.",
        "The parameter count": "Worth knowing beside it; the protocol comes first.",
    },
    "A FID without its protocol is a rumour.",
)  # fmt: skip
