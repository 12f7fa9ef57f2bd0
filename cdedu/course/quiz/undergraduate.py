"""The undergraduate pool, in the order of the chapters."""

import math
from random import Random

from cdedu.course.quiz.core import Drawn, choice, question

MEAN = "Removing noise is guessing a conditional mean"
FLOOR = "A denoiser can be learned, and its loss has a floor"
PATHS = "Noise becomes data along paths, step by step"
SPEED = "Why fewer steps mean faster generation"
TEACHER = "The teacher-student paradigm"
LESSON = "What a lesson asks of the teacher"
ANCHOR = "Neighbours on a path agree; the boundary is the anchor"
SCRATCH = "Training from scratch against distilling an existing model"
QUALITY = "How good is a generator, and how does one know?"
FAST = "Applications: fast image generation"
TOOLS = "Applications: interactive tools, editing without training"

# --- chapters 0 and 1 ------------------------------------------------------------------------------


@question("noise-width", MEAN, "undergraduate/00_toolbox")
def _(draw: Random) -> Drawn:
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


@question("noise-tanh", MEAN, "undergraduate/01_noise")
def _(draw: Random) -> Drawn:
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


choice(
    "noise-far", MEAN, "undergraduate/01_noise",
    "A well-trained denoiser of two moons is handed pure noise at σ = 80, a thousand times. Where do its answers lie?",
    "In a small heap at the mean of the data",
    {
        "On the moons, at random places": "That is what one would like. The denoiser answers with the mean of all candidates, and from far away every data point is one.",
        "Spread over the plane like the noise": "The noise is 160 times as wide as the data; a denoiser knows where the data are.",
        "On the nearer of the two moons": "From σ = 80 no moon is nearer to speak of: both are equally likely origins.",
    },
    "From far away every data point is a candidate, and the best guess is the mean of them all.",
)  # fmt: skip
choice(
    "noise-photocopier", MEAN, "undergraduate/01_noise",
    "The exact denoiser of the training set, a finite set of pictures, is used as a generator with many small steps. What does it draw?",
    "Pictures of the training set",
    {
        "New pictures like those of the training set": "It is exact for a world in which only the training pictures exist, so every path ends at one of them.",
        "The mean of the training set": "That is its answer in a single go from far away. Many small steps end at single pictures.",
        "Noise, since it was never trained": "It needs no training: the formula for a finite set of points is exact.",
    },
    "It is right for a world in which nothing exists but its training pictures: a photocopier.",
)  # fmt: skip


@question("floor-number", FLOOR, "undergraduate/01_noise")
def _(draw: Random) -> Drawn:
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


choice(
    "floor-flat", FLOOR, "undergraduate/01_noise",
    "A denoiser's loss fell for a minute and has been flat since, far from zero. What is the likeliest reason?",
    "It has arrived: what is left is what cannot be known",
    {
        "The network is too small": "It may be, but a perfect denoiser's loss lies flat and far from zero as well. Compare with the floor first.",
        "The learning rate is too small": "Then it would not have fallen within a minute. A loss that lies flat has mostly reached its floor.",
        "Target and input have been mixed up": "Then it would not have learned anything. Flat after falling is the usual picture.",
    },
    "The floor is the variance of what cannot be known; no denoiser gets below it.",
)  # fmt: skip
choice(
    "floor-precondition", FLOOR, "undergraduate/01_noise",
    "Why is the network wrapped as c_skip x + c_out F(c_in x, ¼ ln σ)?",
    "So that copying is free at small σ, and what goes in and has to come out is of size one at every σ",
    {
        "So that the loss can reach zero": "No wrapping changes the floor; the loss stays above zero.",
        "So that f(x, ε) = x holds exactly": "That is the student's wrapping, with σ − ε in two places. A denoiser has no such condition.",
        "So that the network need not be told σ": "It is still told, by ¼ ln σ. Without it one answer would have to serve all levels.",
    },
    "A raw network is off by some hundredths everywhere, which is a disaster at σ = 0.002.",
)  # fmt: skip

# --- chapter 2 ---------------------------------------------------------------------------------------


@question("paths-step", PATHS, "undergraduate/02_paths")
def _(draw: Random) -> Drawn:
    x, d, sigma, lower = draw.choice([(3.0, 1.0, 2.0, 1.5), (5.0, -1.0, 4.0, 1.0), (-2.0, 0.5, 5.0, 3.0)])
    right = x + (lower - sigma) * (x - d) / sigma
    return Drawn(
        f"In one dimension you stand at x = {x:g} at σ = {sigma:g}, and the denoiser guesses D = {d:g}. "
        f"Where does one Euler step to σ′ = {lower:g} take you?",
        right,
        {
            d: "That jumps to the guess. The step goes only part of the way, because the guess is a mean of many candidates.",
            x * lower / sigma: "That walks towards 0. The step goes towards the guess D.",
            x + (sigma - lower) * (x - d) / sigma: "The sign is turned: that walks away from the guess.",
            x + (lower - sigma) * (x - d): "The direction is (x − D)/σ; the division by σ is missing.",
        },
        "x′ = x + (σ′ − σ)(x − D)/σ, a part of the way to the guess.",
    )


@question("paths-order", PATHS, "undergraduate/02_paths")
def _(draw: Random) -> Drawn:
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


choice(
    "paths-dice", PATHS, "undergraduate/02_paths",
    "Two runs start from the same noise, once with Heun and once with DDIM, both with many steps. Then two runs of DDPM do. Which end at the same place?",
    "Heun and DDIM do, the two runs of DDPM do not",
    {
        "All four": "DDPM throws new dice at every step and forgets where it started.",
        "The two runs of DDPM do, Heun and DDIM do not": "It is the other way round: Heun and DDIM follow one equation without any randomness.",
        "None, since the samplers differ": "Heun and DDIM solve the same equation; with many steps the solver does not matter.",
    },
    "The equation has one path through each point; DDPM adds fresh noise at every step.",
)  # fmt: skip
choice(
    "paths-grid", PATHS, "undergraduate/02_paths",
    "Why are the levels of the noise grid crowded towards small σ (ρ = 7)?",
    "The paths bend at levels about as large as the distances within the data, and steps are needed where paths bend",
    {
        "At large σ the denoiser is not reliable": "It is as good there as anywhere. The paths are straight there, so that few steps do.",
        "Small steps cost less": "Every step costs the same call of the same network.",
        "The walk would otherwise not end at ε": "Every grid ends at ε. The spacing decides how large the error is there.",
    },
    "Far away the paths are straight and one long step does; the bend needs many.",
)  # fmt: skip


@question("steps-calls", SPEED, "undergraduate/02_paths")
def _(draw: Random) -> Drawn:
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


@question("steps-time", SPEED, "undergraduate/03_teacher_student")
def _(draw: Random) -> Drawn:
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


choice(
    "steps-few", SPEED, "undergraduate/02_paths",
    "Why not let the teacher itself walk in two steps?",
    "The path bends, and no solver can follow a bend in two straight pieces",
    {
        "The teacher was trained for a fixed number of steps": "The teacher is a denoiser; it knows nothing of steps. Any grid may be walked with it.",
        "Two steps take as long as thirty-five": "They take two thirty-fifths of the time. The quality is the trouble.",
        "It can: only DDPM needs many steps": "DDIM and Heun fail at two steps as well, and Heun worst of all.",
    },
    "A first step from far away goes towards the mean of all data, and a second cannot repair that.",
)  # fmt: skip


@question("steps-repaid", SPEED, "undergraduate/06_digits")
def _(draw: Random) -> Drawn:
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

choice(
    "teacher-asked", TEACHER, "undergraduate/03_teacher_student",
    "A small classifier has 50 labelled pictures and a good teacher. What helped it most?",
    "The teacher's answers on noisy versions of the pictures",
    {
        "The teacher's answers on the 50 pictures themselves": "The teacher had been trained on them and is sure of most; 0.99 says no more than a label.",
        "The labels on noisy versions of the pictures": "Under noise a 3 may turn into something between 3 and 8, and the label still says 3.",
        "Training longer on the 50 labels": "All four lessons were equally long; the answers made the difference.",
    },
    "A teacher can be asked anywhere, and the art is to choose where to ask.",
)  # fmt: skip
choice(
    "teacher-faster", TEACHER, "undergraduate/03_teacher_student",
    "Why is a consistency student faster than its teacher?",
    "It is called once instead of some tens of times",
    {
        "It has fewer weights": "In this course it has exactly the teacher's size; often it starts as a copy of the teacher.",
        "It skips the noise and starts from the data": "It starts from the same noise as the teacher.",
        "It works at a lower resolution": "Its samples have the teacher's shape.",
    },
    "Same size, fewer calls.",
)  # fmt: skip
choice(
    "teacher-limit", TEACHER, "undergraduate/04_consistency",
    "Distillation with Heun's step on 18 points went perfectly: loss zero at every step. What is the student's one-step sample?",
    "The end of the teacher's 18-point walk, the solver's error included",
    {
        "The end of the exact path": "The student only hears of the solver's steps, so it repeats their error.",
        "A sample of the data, better than the teacher's": "What the teacher has not learned, its student cannot know.",
        "The teacher's guess D at σ = 80": "That is the mean of the data. f gives the end of one path.",
    },
    "Zero loss makes the student's call equal to the teacher's whole walk, mistakes and all.",
)  # fmt: skip
choice(
    "teacher-roles", TEACHER, "undergraduate/04_consistency",
    "Four sets of weights take part in distillation. Which one makes the step from a noisy point to its neighbour?",
    "The teacher φ",
    {
        "The student θ": "The student answers where the path ends, at the noisier point.",
        "The target θ⁻": "The target answers where the path ends, at the cleaner point.",
        "The sampling average": "The average takes no part in training; it generates afterwards.",
    },
    "The teacher takes the step; target and student answer the question.",
)  # fmt: skip


@question("lesson-pairs", LESSON, "undergraduate/03_teacher_student")
def _(draw: Random) -> Drawn:
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


@question("lesson-rounds", LESSON, "undergraduate/03_teacher_student")
def _(draw: Random) -> Drawn:
    rounds = draw.choice([4, 5, 6, 7])
    return Drawn(
        f"Progressive distillation takes a teacher of {2**rounds} steps down to one step. How many rounds are that?",
        float(rounds),
        {
            float(2**rounds - 1): "A round does not remove one step, it halves their number.",
            float(2 ** (rounds - 1)): "That is the number of steps after the first round.",
            rounds + 1.0: "Count the halvings, not the models: the teacher is there already.",
        },
        f"{2**rounds} is 2 to the power {rounds}, and each round halves.",
    )


choice(
    "lesson-one-step", LESSON, "undergraduate/03_teacher_student",
    "What does consistency distillation ask of the teacher for one training example?",
    "One solver step, to the neighbour on the path",
    {
        "The end of the path": "That is regression on pairs. Here nobody has to know the end.",
        "Two steps, which the student must make in one": "That is progressive distillation.",
        "The clean picture behind the noisy one": "That comes from the data; the teacher's guess of it would be a mean.",
    },
    "Neighbours have the same end, and the teacher shows who is a neighbour.",
)  # fmt: skip
choice(
    "lesson-wait", LESSON, "undergraduate/03_teacher_student",
    "Which of these has to be finished before the next part of the training can begin?",
    "Each round of progressive distillation",
    {
        "Each noise level of consistency distillation": "All levels are trained at once, by one student.",
        "The student's walk, before it is compared": "The student never walks in training; it answers twice.",
        "Nothing, in none of the methods": "In progressive distillation the student of one round is the teacher of the next.",
    },
    "The student of one round is the teacher of the next.",
)  # fmt: skip

# --- chapter 4 ---------------------------------------------------------------------------------------

choice(
    "anchor-zero", ANCHOR, "undergraduate/04_consistency",
    "Without the boundary condition, which student has a consistency loss of exactly zero, on every grid and with every teacher?",
    "One that answers 0, whatever it is asked",
    {
        "One that answers the end of each exact path": "Nearly: the teacher's step leaves the exact path a little, so its loss is small and not zero. A lazier one does better.",
        "One that copies its input": "Neighbours have different inputs, so copies of them disagree.",
        "One that answers the mean of candidates, as D does": "D changes along a path, so neighbours disagree.",
    },
    "It agrees with itself perfectly. Only f(x, ε) = x ties the answers to the data.",
)  # fmt: skip
choice(
    "anchor-target", ANCHOR, "undergraduate/04_consistency",
    "Of two neighbours on a path, at which one does the target answer?",
    "At the one with less noise, and it gets no gradient",
    {
        "At the one with more noise, and it gets no gradient": "Then the better answer would follow the worse one, and nothing would come from the data.",
        "At the one with less noise, and it gets the gradient": "Then the answer that is nearer to the truth would move towards the other.",
        "At either, since both must agree": "They must, but one of them is more trustworthy, and that one is held still.",
    },
    "Knowledge travels from the data to the noise.",
)  # fmt: skip


@question("anchor-renoise", ANCHOR, "undergraduate/04_consistency")
def _(draw: Random) -> Drawn:
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


choice(
    "anchor-loss", ANCHOR, "undergraduate/04_consistency",
    "Two students were trained, one with N = 18 and one with N = 72. The second has a loss ten times smaller. What follows?",
    "Nothing about the samples",
    {
        "The second makes better samples": "On a finer grid neighbours are closer together and disagree less, whatever the student.",
        "The second has trained longer": "The number of points alone makes the loss smaller.",
        "The first has a bug": "A larger loss on a coarser grid is as it should be.",
    },
    "Losses at different N, λ or d cannot be compared, and the zero function has the best of all.",
)  # fmt: skip
choice(
    "anchor-stop", ANCHOR, "undergraduate/04_consistency",
    "Somebody forgot the stop-gradient on the target. What does the run look like?",
    "The loss falls faster, and the samples are worse",
    {
        "An error is raised": "Nothing is wrong for the machine; both answers get a gradient, and that is all.",
        "The loss stays where it was": "Both ends can now move, so it falls even faster.",
        "It makes no difference, since both must agree": "They do agree sooner, but half of what the cleaner point knew is lost on the way.",
    },
    "Both ends move, they meet sooner, and the one that was right gave way.",
)  # fmt: skip

# --- chapter 5 ---------------------------------------------------------------------------------------


@question("scratch-cost", SCRATCH, "undergraduate/05_scratch_or_teacher")
def _(draw: Random) -> Drawn:
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


choice(
    "scratch-neighbour", SCRATCH, "undergraduate/05_scratch_or_teacher",
    "How does consistency training find the neighbour of x₀ + σz without a teacher?",
    "It takes x₀ + σ′z, with the same x₀ and the same z",
    {
        "It takes x₀ + σ′z′ with fresh noise z′": "Then the mean neighbour is the guess D itself: no small step, and the student learns the blob.",
        "It asks the student for the direction": "The student answers where the path ends; it takes no steps here.",
        "It walks from a stored pair": "Stored pairs need a teacher's walk.",
    },
    "Put the x₀ that we know where the teacher's guess was: right on average, and free.",
)  # fmt: skip
choice(
    "scratch-coarse", SCRATCH, "undergraduate/05_scratch_or_teacher",
    "Why does consistency training not simply stay on a grid of 4 points?",
    "Its answers are biased there, and no amount of training removes a bias",
    {
        "It would be too slow": "A coarse grid is the quick one: news has few steps to travel.",
        "The teacher's solver would be too inaccurate": "There is no teacher in consistency training.",
        "Its loss would not fall": "It falls; what it falls to is the wrong answer.",
    },
    "The neighbours scatter, f is not linear, and the mean of the answers is not the answer at the mean.",
)  # fmt: skip
choice(
    "scratch-bill", SCRATCH, "undergraduate/05_scratch_or_teacher",
    "On two moons, at equal evaluations, when had consistency training the lead over distillation?",
    "Only while the teacher's own training had to be paid for first",
    {
        "Always": "With the teacher for free, distillation was ahead at every budget.",
        "Never": "While the teacher is being trained, consistency training is the only one with anything to show.",
        "At the largest budgets": "It was the other way round: the longer the run, the less the teacher's bill matters.",
    },
    "Who wins depends on a question that is not technical: is there a teacher already?",
)  # fmt: skip

# --- chapter 6 ---------------------------------------------------------------------------------------

choice(
    "good-floor", QUALITY, "undergraduate/06_digits",
    "Why is the Fréchet distance between two sets of real pictures not zero?",
    "Means and covariances of finite sets are inexact, and every error adds to it",
    {
        "The classifier makes mistakes": "It makes the same ones on both sides. The sets are finite, that is the reason.",
        "The two sets come from different writers": "Two halves of one set have a distance as well.",
        "It is zero; only samples have a distance": "Try it: a few hundred real pictures against as many others are far from zero.",
    },
    "Hence the floor, and the rule to compare only at equal sample size.",
)  # fmt: skip
choice(
    "good-copy", QUALITY, "undergraduate/06_digits",
    "A generator returns training pictures as they are. What do its scores say?",
    "Its Fréchet distance is about the floor; only a look at nearest neighbours shows the copies",
    {
        "Its Fréchet distance is zero": "It is measured against held-out pictures, so it is the floor, real against real.",
        "Its recall is zero": "Training pictures are as varied as real ones; recall is excellent.",
        "Its precision is poor": "Training pictures are real ones; precision is excellent.",
    },
    "A distance to held-out pictures cannot tell learning from copying.",
)  # fmt: skip
choice(
    "good-equal", QUALITY, "undergraduate/06_digits",
    "A paper has a Fréchet distance of 20 with 5,000 samples; yours is 26 with 500, same features and same data. Which is better?",
    "Nobody can say: a smaller sample has a larger distance to begin with",
    {
        "The paper's, since 20 is less than 26": "With 500 samples even real pictures have a larger distance than with 5,000.",
        "Yours, since it needed fewer samples": "Fewer samples make the ruler worse, not the generator better.",
        "They are equal within the scatter": "That may be, but first the bias of the smaller sample has to be taken out.",
    },
    "Compare at equal sample size, and read each value beside its floor.",
)  # fmt: skip
choice(
    "good-average", QUALITY, "undergraduate/06_digits",
    "A generator draws the average digit, again and again. What are its precision and recall?",
    "High precision, recall near zero",
    {
        "Low precision, high recall": "The average lies in the middle of the real ones, so that precision counts it as one of them; but no real digit lies among its samples.",
        "Both near zero": "Precision asks whether a sample falls among real ones, and the average does.",
        "Both high": "Recall asks whether real digits fall among the samples, and they are all in one place.",
    },
    "DDIM with two calls did just that.",
)  # fmt: skip

# --- chapters 6 and 7 --------------------------------------------------------------------------------


@question("fast-frame", FAST, "undergraduate/07_interactive")
def _(draw: Random) -> Drawn:
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


choice(
    "fast-where", FAST, "undergraduate/07_interactive",
    "For which of these does one step instead of 35 matter least?",
    "One poster, made once and looked at for a year",
    {
        "A canvas that answers while you draw": "There each change is one call, and 35 would make you wait.",
        "A slider between two pictures": "Each position is a picture of its own; it must follow the hand.",
        "A million pictures for a data set": "There the saving is multiplied by a million.",
    },
    "Where a picture is made once, a second of waiting does no harm, and the teacher's is slightly better.",
)  # fmt: skip
choice(
    "fast-once", FAST, "undergraduate/06_digits",
    "What does the sentence “the student is thirty-five times as fast” leave out?",
    "That distillation has to be paid for before the first picture",
    {
        "That the student is smaller": "It has the teacher's size; the factor is the number of calls.",
        "That the factor holds on a GPU only": "The ratio follows the number of calls on any machine.",
        "That its samples need a second network": "One network makes them, in one call.",
    },
    "The cost is paid once and the saving comes with every picture; some tens of thousands of pictures may lie between.",
)  # fmt: skip
choice(
    "edit-sigma", TOOLS, "undergraduate/07_interactive",
    "A drawing y becomes a picture by f(y + σz, σ). What does σ decide?",
    "How much of the drawing to believe",
    {
        "How sharp the picture becomes": "f ends at ε for every σ. A larger σ forgets more of the drawing.",
        "How many calls are needed": "It is one call for every σ.",
        "How fast it is": "The time of a call does not depend on σ.",
    },
    "Small noise keeps the drawing with its faults; large noise makes good pictures that have forgotten it.",
)  # fmt: skip
choice(
    "edit-loop", TOOLS, "undergraduate/07_interactive",
    "Why can a single call not fill a hole so that it fits its surroundings?",
    "The call starts from pure noise and has not seen the known pixels",
    {
        "The student was not trained to fill holes": "It was not, and with some twenty calls it does it all the same.",
        "The mask would have to be learned": "The mask is only used between calls, to overwrite what is known.",
        "One call is less accurate than two": "It is, a little; but here the missing part knows nothing of the rest.",
    },
    "Only from the second call on does the missing part see the known one, through noise.",
)  # fmt: skip


@question("edit-shift", TOOLS, "undergraduate/07_interactive")
def _(draw: Random) -> Drawn:
    channels, grey = draw.choice([((0.2, 0.4, 0.9), 0.6), ((-0.3, 0.1, 0.5), 0.3), ((0.6, 0.0, 0.3), 0.5)])
    mean = sum(channels) / 3
    first = channels[0]
    return Drawn(
        f"The grey value of a pixel, the mean of its channels, is known to be {grey:g}. The student's pixel is {channels}. "
        "What is its first channel after x ← Py + (x − Px)?",
        first + grey - mean,
        {
            grey: "That overwrites all channels with the grey value. Only their mean is known; their differences are the student's.",
            first: "Then the mean of the channels would still be wrong.",
            first
            * grey
            / mean: "That scales the channels. A projection shifts them: the same amount for all three.",
        },
        "P replaces the channels by their mean, so all three are shifted by the same amount.",
    )


choice(
    "edit-mask", TOOLS, "undergraduate/07_interactive",
    "A mask from another code base, with 1 for missing, is given to an editor in which 1 means known. What happens?",
    "No error: what was known is invented, and what was missing is kept",
    {
        "An error: the shapes do not fit": "The shapes are the same; only the meaning is turned round.",
        "Everything is kept": "The pixels marked 1 are kept, and these are the missing ones.",
        "Everything is invented": "The pixels marked 1 are kept; they happen to be the wrong ones.",
    },
    "An assertion on pixels of which you are sure catches it in one line.",
)  # fmt: skip
