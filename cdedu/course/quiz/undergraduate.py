"""The questions of undergraduate.toml whose numbers are drawn."""

import math
from random import Random

from cdedu.course.quiz.core import Drawn

# --- chapters 0 and 1 ------------------------------------------------------------------------------


def noise_width(draw: Random) -> Drawn:
    s, sigma = draw.choice([(3.0, 4.0), (1.5, 2.0), (6.0, 8.0), (0.9, 1.2)])
    return Drawn(
        f"Data with standard deviation {s:g} get independent noise of standard deviation {sigma:g}. "
        "What is the standard deviation of the sum?",
        math.hypot(s, sigma),
        {
            s + sigma: "Standard deviations do not add; their squares, the variances, do.",
            s**2 + sigma**2: "That is the variance of the sum. The standard deviation is its root.",
            sigma: "That is the noise alone. The data add their own spread.",
        },
        "Variances add, and the standard deviation is the root of their sum.",
    )


def noise_tanh(draw: Random) -> Drawn:
    x, sigma = draw.choice([0.3, 0.4, 0.6]), draw.choice([0.7, 0.8, 1.25, 1.4])
    return Drawn(
        f"The data are −1 and +1, equally likely, and D(x, σ) = tanh(x/σ²). You see x = {x:g} at σ = {sigma:g}. "
        "Which guess has the smallest expected squared error?",
        math.tanh(x / sigma**2),
        {
            1.0: "That is the nearer of the two points. Squared error wants the mean of both, weighed by their probability.",
            x: "That leaves x alone. x is data plus noise, and the data are known to be −1 or +1.",
            math.tanh(x / sigma): "You divided by σ; the Gaussian has σ² in its exponent.",
            0.0: "0 is the best guess before anything is seen. x says something, too.",
        },
        "The best guess is the conditional mean, a number that never occurs in the data.",
    )


def floor_number(draw: Random) -> Drawn:
    s, sigma = draw.choice([(0.5, 1.0), (0.3, 0.4), (1.0, 0.5), (2.0, 1.0)])
    floor = s**2 * sigma**2 / (s**2 + sigma**2)
    return Drawn(
        f"The data are one Gaussian with standard deviation {s:g}. To which mean squared error (a coordinate, λ = 1) does the loss "
        f"of a perfect denoiser come down at σ = {sigma:g}?",
        floor,
        {
            0.0: "Zero would mean that x₀ can be told from x. Several x₀ give the same x.",
            sigma**2: "σ² is the error of leaving x as it is. The best denoiser also knows where the data lie.",
            s**2: "s² is the error of always answering the mean. The best denoiser also looks at x.",
            math.sqrt(floor): "That is the size of a typical error, the root of the mean square.",
            s**2 + sigma**2: "That is the variance of what is seen.",
        },
        "What is left is the variance of x₀ once x is seen, s²σ²/(s² + σ²).",
    )  # fmt: skip


# --- chapter 2 ---------------------------------------------------------------------------------------


def paths_step(draw: Random) -> Drawn:
    x, d, sigma, lower = draw.choice([(3.0, 1.0, 2.0, 1.5), (5.0, -1.0, 4.0, 1.0), (-2.0, 0.5, 5.0, 3.0)])
    right = x + (lower - sigma) * (x - d) / sigma
    return Drawn(
        f"In one dimension you stand at x = {x:g} at σ = {sigma:g}, and the denoiser guesses D = {d:g}. "
        f"Where does one Euler step to σ′ = {lower:g} take you?",
        right,
        {
            d: "That jumps to the guess. The step goes only part of the way, because the guess is a mean of many candidates.",
            x * lower / sigma: "That walks toward 0. The step goes toward the guess D.",
            x + (sigma - lower) * (x - d) / sigma: "The sign is flipped: that walks away from the guess.",
            x + (lower - sigma) * (x - d): "The direction is (x − D)/σ; the division by σ is missing.",
        },
        "x′ = x + (σ′ − σ)(x − D)/σ, a part of the way to the guess.",
    )


def paths_order(draw: Random) -> Drawn:
    name, p = draw.choice([("Euler's", 1), ("Heun's", 2)])
    factor = draw.choice([3, 4, 5])
    wrong = {
        1.0: "More steps bring a solver nearer to the end of the path, until rounding stops it.",
        float(factor ** (3 - p)): f"That is the other method: {name} method is of order {p}.",
    }
    return Drawn(
        f"{name} method walks a path with steps that are already small. You make the steps {factor} times smaller. "
        "By which factor does the error at the end shrink, about?",
        float(factor**p),
        wrong,
        f"{name} method is of order {p}: the error goes like the step to the power {p}.",
        tolerance=0.05,
    )


def steps_calls(draw: Random) -> Drawn:
    n = draw.choice([9, 12, 18, 24, 36])
    return Drawn(
        f"Heun's sampler walks a grid of {n} points and adds one Euler step to σ = 0. How often does it call the network?",
        2.0 * n - 1,
        {
            float(n): "That counts points. A step of Heun's makes two calls.",
            n - 1.0: "That counts Heun's steps; each makes two calls, and the last step to 0 one more.",
            2.0 * (n - 1): "That leaves out the last step, to σ = 0.",
            2.0 * n: f"{n} points are {n - 1} steps, not {n}.",
        },
        f"{n} points are {n - 1} steps of two calls, and one Euler step more.",
        tolerance=0.005,
    )


def steps_time(draw: Random) -> Drawn:
    n, seconds = draw.choice([(35, 7.0), (35, 1.4), (34, 6.8), (40, 2.0)])
    return Drawn(
        f"A teacher makes a picture in {n} calls and {seconds:g} seconds. About how many seconds does a student of the same size "
        "take in one call?",
        seconds / n,
        {
            seconds: "Time is proportional to calls, and the student makes one of them.",
            2 * seconds / n: "That would be two calls.",
            seconds / n**2: "You divided by the calls twice: the student's network has the teacher's size.",
        },
        "A student is not smaller; it is called less often, and time is proportional to calls.",
        tolerance=0.05,
    )  # fmt: skip


def steps_repaid(draw: Random) -> Drawn:
    cost, slow, fast = draw.choice([(900.0, 0.50, 0.05), (600.0, 0.40, 0.04), (1500.0, 0.60, 0.10)])
    return Drawn(
        f"Distilling took {cost:g} seconds. The teacher needs {slow:g} s a picture, the student {fast:g} s. After how many "
        "pictures has the time come back?",
        cost / (slow - fast),
        {
            cost
            / slow: "A picture does not save the teacher's whole time: the student's own time is still spent.",
            cost / fast: "Divide by what a picture saves, not by what the student takes.",
            cost / (slow + fast): "The two times are to be subtracted: a picture saves the difference.",
        },
        "Each picture saves the difference of the two times.",
    )


# --- chapter 3 ---------------------------------------------------------------------------------------


def lesson_pairs(draw: Random) -> Drawn:
    pairs, steps = draw.choice([1000, 2000, 5000]), draw.choice([10, 17, 20])
    return Drawn(
        f"For regression you store {pairs:,} pairs of noise and sample. Each sample is a walk of {steps} Heun steps, without a last "
        "step to 0. How many teacher calls is that?",
        2.0 * steps * pairs,
        {
            float(steps * pairs): "A step of Heun's makes two calls.",
            float(2 * pairs): "Two calls are one step. A pair needs the whole walk.",
            float(pairs): "A pair costs a whole walk, not a call.",
        },
        "Each pair costs a whole walk: two calls for each step.",
    )  # fmt: skip


def lesson_rounds(draw: Random) -> Drawn:
    rounds = draw.choice([4, 5, 6, 7])
    return Drawn(
        f"Progressive distillation takes a teacher of {2**rounds} steps down to one step. How many rounds is that?",
        float(rounds),
        {
            float(2**rounds - 1): "A round does not remove one step, it halves their number.",
            float(2 ** (rounds - 1)): "That is the number of steps after the first round.",
            rounds + 1.0: "Count the halvings, not the models: the teacher is there already.",
        },
        f"{2**rounds} is 2 to the power {rounds}, and each round halves.",
    )


# --- chapter 4 ---------------------------------------------------------------------------------------


def anchor_renoise(draw: Random) -> Drawn:
    eps, tau = draw.choice([(0.3, 0.5), (0.5, 1.3), (0.8, 1.0), (0.6, 1.0)])
    return Drawn(
        f"With ε = {eps:g} a sample is to be taken up to τ = {tau:g} for a second step. What is the standard deviation of the noise "
        "that is added?",
        math.sqrt(tau**2 - eps**2),
        {
            tau: "The sample already stands at noise level ε; with τ on top it would be noisier than the student is told.",
            tau - eps: "Noise levels do not subtract; their squares do.",
            math.hypot(tau, eps): "The sum of squares would be right if you came down from τ; here ε² is there already.",
        },
        "Variances add, so τ² − ε² is what is missing.",
    )  # fmt: skip


# --- chapter 5 ---------------------------------------------------------------------------------------


def scratch_cost(draw: Random) -> Drawn:
    name, right = draw.choice(
        [
            ("consistency training", 4),
            ("distillation with an Euler step", 5),
            ("distillation with a Heun step", 6),
        ]
    )
    sentences = {
        3.0: "That is the student's own pass forward and backward. The target goes forward as well.",
        4.0: "That leaves out the teacher's calls.",
        5.0: "Look again at how often the teacher is called for one example.",
        6.0: "That counts two calls of a teacher.",
        2.0: "A backward pass costs about two forward passes, and it is not the only one.",
    }
    wrong = {value: text for value, text in sentences.items() if value != right}
    return Drawn(
        f"Count a forward pass as 1 and a backward pass as 2. What does one training image cost in {name}?",
        float(right),
        wrong,
        "Three for the student, one for the target, and the teacher's calls: none, one or two.",
    )


# --- chapter 6 ---------------------------------------------------------------------------------------


# --- chapters 6 and 7 --------------------------------------------------------------------------------


def fast_frame(draw: Random) -> Drawn:
    milliseconds, fits = draw.choice([(3.0, 5.0), (4.5, 3.0), (6.5, 2.0), (2.2, 7.0)])
    return Drawn(
        f"One call takes {milliseconds:g} ms. How many whole calls fit into a frame of 16 ms?",
        fits,
        {
            fits + 1: f"{fits + 1:.0f} calls take {(fits + 1) * milliseconds:g} ms, which is more than 16.",
            16.0 * milliseconds: "Divide the frame by the call.",
            float(
                int(100 // milliseconds)
            ): "That is how many fit into 100 ms, the limit for an answer at once.",
        },
        f"{fits:.0f} calls take {fits * milliseconds:g} ms; one more would miss the frame.",
    )


def edit_shift(draw: Random) -> Drawn:
    channels, gray = draw.choice([((0.2, 0.4, 0.9), 0.6), ((-0.3, 0.1, 0.5), 0.3), ((0.6, 0.0, 0.3), 0.5)])
    mean = sum(channels) / 3
    first = channels[0]
    return Drawn(
        f"The gray value of a pixel, the mean of its channels, is known to be {gray:g}. The student's pixel is {channels}. "
        "What is its first channel after x ← Py + (x − Px)?",
        first + gray - mean,
        {
            gray: "That overwrites all channels with the gray value. Only their mean is known; their differences are the student's.",
            first: "Then the mean of the channels would still be wrong.",
            first
            * gray
            / mean: "That scales the channels. A projection shifts them: the same amount for all three.",
        },
        "P replaces the channels by their mean, so all three are shifted by the same amount.",
    )
