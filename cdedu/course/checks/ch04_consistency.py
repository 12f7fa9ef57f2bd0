"""The exercises of chapter 4: consistency."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from cdedu.course.checks.core import (
    NotAttempted,
    Wrong,
    agree,
    at_edge,
    call,
    choose,
    exercise,
    near,
    number,
    spots,
    tensor,
)
from cdedu.losses import l1, l2
from cdedu.mixture import GaussianMixture
from cdedu.noise import karras_sigmas
from cdedu.solvers import euler_step, heun_step


@exercise(
    "consistency-roles",
    "Four sets of weights",
    "predict",
    "easy",
    5,
    answers=("unnoticed", "kept"),
    hints=(
        (
            "Read the loss from left to right: whose answers are in it, and whose steps? Then look at the optimizer: whose "
            "weights does it move?"
        ),
        "With μ = 0 the table still has four rows, but two of them hold the same numbers at every step.",
    ),
)
def _(unnoticed: object, kept: object, g: Generator) -> str:
    choose(
        unnoticed,
        "d",
        {
            "a": "(a) The teacher takes the step to the cleaner point. A broken teacher gives other points, and so other losses.",
            "b": "(b) The student answers at the noisier point. Its next loss would be different.",
            "c": "(c) No gradient flows into the target, but its answers are in the loss. The next loss would be different.",
            "e": "(e) One of the four takes no part in the loss.",
        },
    )
    near(
        number(kept),
        3,
        {
            "target counted": (4, "kept: with μ = 0 the target is the student with its gradient stopped. It needs no weights of its own."),
            "one forgotten": (2, "kept: two are too few. The loss needs teacher and student, and in the end it's the sampling average that generates."),
            "teacher forgotten": (1, "kept: the teacher takes a step for every example, so it has to be there during training. And the student isn't the one that generates."),
        },
        tolerance=0.01,
        what="kept",
    )  # fmt: skip
    return "So only someone who looks at samples will notice a lost average."


@exercise(
    "consistency-neighbors",
    "Which way the grid runs",
    "bug",
    "medium",
    10,
    answers=("neighbors",),
    hints=(
        "At n = 1 the cleaner level is ε, the last entry of sigmas. At n = N − 1 the noisier level is T, the first entry.",
        (
            "The paper's t_n is the n-th level counted from below. The entries of `sigmas` are counted from above, starting "
            "at 0. Where does t_1 sit, and where does t_N?"
        ),
        (
            "Write the place of t_n in `sigmas` as a formula in N and n that gets both ends right. Then remember that the "
            "pair's noisier level is t_{n+1}."
        ),
    ),
)
def _(neighbors: object, g: Generator) -> str:
    size = int(torch.randint(8, 14, (), generator=g))
    sigmas = (0.2 + torch.rand(size, generator=g)).cumsum(0).flip(0)

    def both(n: Tensor) -> Tensor:
        pair = call(neighbors, sigmas, n)
        if not (isinstance(pair, tuple | list | Tensor) and len(pair) == 2):
            raise Wrong("type", "It should return two tensors: the noisier levels, then the cleaner ones.")
        return torch.stack([tensor(level, (len(n),)) for level in pair])

    def levels(noisier: Tensor, cleaner: Tensor) -> Tensor:
        return torch.stack([sigmas[noisier], sigmas[cleaner]])

    n = torch.arange(2, size - 1)
    answer = both(n)
    if torch.allclose(answer.float(), levels(n, n - 1)):
        raise NotAttempted("This is still the code you were given: the noisier level is the lower one.")
    i = size - 1 - n
    agree(
        answer,
        levels(i, i + 1),
        {
            "order": (levels(i + 1, i), "Those are the right two levels in the wrong order: the noisier one, σᵢ, comes first."),
            "wrong end": (
                levels(n - 1, n),
                ("These are neighbors in the right order, but counted from T: at n = 1 they should be the pair next to ε. With n drawn uniformly nobody would notice; any loss or figure by n would show it."),
            ),
            "one too low": (levels(i + 1, i + 2), "Each pair sits one place too low, so T is never trained, and n = 1 has no cleaner neighbor at all."),
            "one too high": (levels(i - 1, i), "Each pair sits one place too high. At n = 1 the cleaner level must be ε: without that pair there's no anchor."),
            "not neighbors": (levels(i - 1, i + 1), "The two levels aren't neighbors: there's one between them."),
        },
    )  # fmt: skip
    n = torch.arange(1, size)
    agree(both(n), levels(size - 1 - n, size - n), what="At one end of the grid it")
    return "n = 1 is the pair with the anchor, and i = N − 1 − n."


@exercise(
    "consistency-anchor",
    "An anchor of your own",
    "code",
    "medium",
    15,
    answers=("anchored",),
    hints=(
        "Mix the two with a weight: f = w x + (1 − w) guess. What must w be at ε, and what far away?",
        (
            "w must be exactly 1 at σ = ε, fall smoothly, and be nearly 0 at 80. Many functions do that: look at ratios of "
            "the two levels, or at the chapter's c_skip. Which of them is still exactly 1 after rounding?"
        ),
        (
            "Every sample has its own σ, so w needs a shape that multiplies (B, d). Then try a huge guess at σ = ε: does any "
            "of it come through?"
        ),
    ),
)
def _(anchored: object, g: Generator) -> str:
    # fmt: off
    tried = torch.randint(51, 205, (20,), generator=g) / 1024  # 0.05 to 0.2, with few digits, so that 1 + ε is exact
    # One for which eps / sigma, which torch computes as eps · (1/σ), is 1 to the last digit.
    eps = next(e for e in tried.tolist() if (e / torch.full((6,), e) == 1).all())
    z, matrix, shift = (torch.randn(n, 3, generator=g) for n in (6, 3, 1))

    def guess(x: Tensor, sigma: float | Tensor) -> Tensor:
        return 0.3 * (x / torch.as_tensor(sigma).reshape(-1, 1)) @ matrix.to(x.dtype) + shift

    def weights(sigma: float) -> tuple[float, float]:
        """How much of x and of the guess is in the answer at one level."""
        x, levels = sigma * z, torch.full((6,), sigma)
        f = tensor(call(anchored, guess, x, levels, eps), (6, 3))
        parts = torch.stack([x.flatten(), guess(x, levels).flatten()], 1).double()
        of_x, of_guess = torch.linalg.lstsq(parts, f.flatten()[:, None]).solution.flatten().tolist()
        return of_x, of_guess

    (x_low, guess_low), (x_just, _), (x_far, guess_far) = weights(eps), weights(1.01 * eps), weights(80.0)
    if guess_low > 0.5 and x_far > 0.5:
        raise Wrong("swapped", "The weights are swapped: it follows x at high noise and the guess near ε.")
    if x_low < 0.5:
        raise Wrong("no anchor", "At σ = ε it answers with the guess. But there the answer is known: it's x.")
    if abs(x_low - 1) > 1e-4 or abs(guess_low) > 1e-4:
        raise Wrong("almost", f"At σ = ε it contains {x_low:.3f} of x and {guess_low:.3f} of the guess. There it must be exactly 1 and 0.")
    if x_far > 0.05:
        raise Wrong("x stays", f"At σ = 80 the weight of x is still {x_far:.2f}. It should fall below 0.05.")
    if abs(guess_far - 1) > 0.06:
        raise Wrong("scaled", f"At σ = 80 the weight of the guess is {guess_far:.2f}. It should be nearly 1.")
    if x_just < 0.9:
        raise Wrong("switch", "It jumps: at ε it's x, and just above ε it's already the guess. Let the weight fall smoothly.")
    # fmt: on
    x, level = eps * z, torch.full((6,), eps)
    for size in (1.0, 1e6):
        at_edge(
            f"At σ = ε, with a guess of size {size:,.0f},",
            "There it must be x to the last digit, whatever the guess. In g + w·(x − g), where g is the guess, rounding "
            "swallows the last digits of x; and a weight that's 1 only up to rounding lets some of the guess through. In w·x "
            "+ (1 − w)·g, with w exactly 1, none of it is left.",
            x,
            anchored,
            lambda x, sigma, size=size: size * guess(x, sigma),
            x,
            level,
            eps,
            key="rounding",
            tolerance=1e-8,
        )
    sigma = eps * torch.tensor([1.0, 2.0, 5.0, 20.0, 100.0, 400.0])
    x = sigma[:, None] * z
    alone = torch.cat(
        [tensor(call(anchored, guess, x[k : k + 1], sigma[k : k + 1], eps), (1, 3)) for k in range(6)]
    )
    agree(
        call(anchored, guess, x, sigma, eps),
        alone,
        what="When the samples of a batch have different noise levels, it",
    )
    return "Any network inside it gives x at ε. It doesn't have to learn that."


@exercise(
    "consistency-seam",
    "Where the paths part",
    "predict",
    "medium",
    10,
    answers=("seam",),
    hints=(
        "On a line, paths can't cross: whoever starts farther left ends farther left. So which of the starts end at −1?",
        "The starts that end at −1 are the lowest ones. What fraction of all starts are they?",
        (
            "`torch.special.ndtri` gives you a place on the *standard* Gaussian. This noise has another standard deviation, "
            "and its center isn't 0."
        ),
    ),
)
def _(seam: object, g: Generator) -> str:
    near(
        number(seam),
        -41.55,
        {
            "mean forgotten": (-41.95, "Nearly. That's the place on a Gaussian around 0. This noise lies around the mean of the data, 0.4."),
            "middle": (0.0, "0 would send half of the noise to −1, but only 30 % of the data are there."),
            "nearest": (0.4, "0.4 is the mean of the data, and the denoiser's answer from far away. The seam lies elsewhere."),
            "sign": (42.35, "30 % of the noise lies above that value, but it's the left part that goes to −1."),
            "sign and mean": (41.95, "30 % of a Gaussian around 0 lies above that value. But it's the left part that goes to −1, and this noise lies around 0.4."),
            "linear": (-0.4 * 80, "Noise isn't uniform between −80 and 80. You need the place below which 30 % of a Gaussian lies."),
            "fraction of T": (-0.3 * 80, "0.3 is a probability, not a number of standard deviations."),
            "in units of σ": (-0.524, "That is in standard deviations. The noise has standard deviation 80."),
            "reversed": (-0.7 * 80, "0.7 is a probability, not a number of standard deviations, and it belongs to the other point."),
        },
        tolerance=0.005,
    )  # fmt: skip
    return "A start at −20 is closer to −1, and yet its path ends at +1."


SIGMAS = karras_sigmas(18)
_BLOBS = GaussianMixture(torch.tensor([[-0.5, 0.2], [0.5, -0.2]]), 0.1)
Loss = Callable[..., Tensor]


def _loss(
    solver: Callable[..., Tensor] = heun_step,
    distance: Callable[[Tensor, Tensor], Tensor] = l2,
    weighted: bool = True,
    stop: bool = True,
    told: tuple[int, int] = (0, 1),
    swapped: bool = False,
) -> Loss:
    """Consistency distillation, right or with one part changed."""

    def loss(
        student: Callable[..., Tensor], target: Callable[..., Tensor], x0: Tensor, z: Tensor, i: Tensor
    ) -> Tensor:
        sigma, sigma_next = levels = SIGMAS[i], SIGMAS[i + 1]
        x = x0 + sigma[:, None] * z
        with torch.no_grad():
            x_next = solver(_BLOBS, x, sigma, sigma_next)
        if swapped:
            d = distance(student(x_next, sigma_next), target(x, sigma).detach())
        else:
            goal = target(x_next, levels[told[1]])
            d = distance(student(x, levels[told[0]]), goal.detach() if stop else goal)
        return d / (sigma - sigma_next) if weighted else d

    return loss  # fmt: skip


@exercise(
    "consistency-spy",
    "Two spies",
    "bug",
    "hard",
    25,
    answers=("check_loss",),
    hints=(
        (
            "Give the loss two spies, and call .sum().backward() on what it returns. Then ask each spy: at which levels were "
            "you called, and did your w get a gradient?"
        ),
        (
            "In terms of sigmas and i, which levels should each spy have seen? And what does a weight's .grad look like in "
            "torch when no gradient has reached it?"
        ),
        (
            "You need three assertions. Compare the levels of a whole batch, up to rounding, and let i differ within the "
            "batch."
        ),
    ),
)
def _(check_loss: object, g: Generator) -> str:
    spots(
        check_loss,
        {
            "the loss of the chapter": _loss(),
            "the paper's weight 1": _loss(weighted=False),
            "Euler's step and another distance": _loss(euler_step, l1),
        },
        {
            "told wrong": (
                _loss(told=(0, 0)),
                ("It passes the code above, whose target is told σᵢ although its point is at σᵢ₊₁. Compare the levels that the target was called at with sigmas[i + 1]."),
            ),
            "student told wrong": (
                _loss(told=(1, 1)),
                ("It passes a loss that tells the student σᵢ₊₁ although its point is at σᵢ. Compare the levels that the student was called at with sigmas[i]."),
            ),
            "noisier target": (
                _loss(swapped=True),
                "It passes a loss whose target sits at the noisier point. Which spy should be called at which level?",
            ),
            "gradient": (
                _loss(stop=False),
                "It passes a loss that lets the gradient into the target. After backward(), look at the w of the target's spy.",
            ),
        },
    )  # fmt: skip
    return "Assertions like these take milliseconds and see what the loss curve hides."
