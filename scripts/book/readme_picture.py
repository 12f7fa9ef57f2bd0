"""Still pictures of what runs in the pages: `python scripts/book/readme_picture.py` writes them into book/_static.

- teacher-student.png, also in the README: digits of both networks from the same noise;
- sketch.png: a drawing, and eight answers to it;
- photos.png: a photograph of each class by both networks, where there is a student of them.
"""

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure

import cdedu
from cdedu import checkpoints
from cdedu.data.images import CIFAR10_SHORT
from cdedu.editing import stroke_to_image
from cdedu.methods.guidance import guided_for
from cdedu.plotting import INK, STUDENT, TEACHER, image_grid, use_style
from cdedu.recipes import recipes


def main() -> None:
    """Write all."""
    use_style()
    race()
    sketch()
    if (checkpoints.WEIGHTS / "cifar10-small-guided.safetensors").is_file():
        photos()


def race() -> None:
    """Sixteen digits twice, from the same noise."""
    recipe, n = recipes["digits"], 16
    noise = recipe.sigma_max * torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    rows = [
        (
            "teacher, 35 evaluations",
            TEACHER,
            cdedu.sample_heun(cdedu.load("digits-teacher"), noise, recipe.sigmas(18)),
        ),
        ("student, 1 evaluation", STUDENT, cdedu.sample_consistency(cdedu.load("digits-student"), noise)),
    ]
    figure, axes = plt.subplots(2, 1, figsize=(9, 1.9))
    for ax, (title, color, x) in zip(axes, rows, strict=True):
        image_grid(ax, x, columns=n)
        ax.set_title(title, color=color, loc="left", fontweight="bold")
    save(figure, "teacher-student")


def sketch() -> None:
    """A drawing of a 3, and what the student makes of it from noise of level 0.5."""
    rows = "..###... .....#.. .....#.. ..###... .....#.. .....#.. .....#.. ..###..."
    drawing = torch.tensor([[2.0 * (cell == "#") - 1 for cell in row] for row in rows.split()])
    copies = drawing.expand(8, 1, 8, 8)
    student, generator = cdedu.load("digits-student"), torch.Generator().manual_seed(3)
    answers = stroke_to_image(student, copies, 0.5, generator=generator)
    figure, axes = plt.subplots(1, 2, figsize=(9, 1.4), width_ratios=(1, 8))
    for ax, title, color, x in (
        (axes[0], "drawing", INK, copies[:1]),
        (axes[1], "student, 1 evaluation", STUDENT, answers),
    ):
        image_grid(ax, x, columns=len(x))
        ax.set_title(title, color=color, loc="left", fontweight="bold")
    save(figure, "sketch")


def photos() -> None:
    """One picture of each class twice, from the same noise: a guided teacher's and its student's."""
    recipe, student, teacher = (
        recipes["cifar10-small"],
        *map(cdedu.load, ("cifar10-small-guided", "cifar10-small-teacher")),
    )
    names = [CIFAR10_SHORT.get(name, name) for name in student.header.class_names]
    labels, generator = torch.arange(len(names)), torch.Generator().manual_seed(0)
    noise = recipe.sigma_max * torch.randn(len(names), *student.header.shape, generator=generator)
    figure, axes = plt.subplots(2, 1, figsize=(5, 1.9))
    for ax, title, color, x in (
        (
            axes[0],
            "guided teacher, 2 × 35 evaluations",
            TEACHER,
            cdedu.sample_heun(guided_for(student, teacher), noise, recipe.sigmas(18), labels=labels),
        ),
        (axes[1], "student, 1 evaluation", STUDENT, cdedu.sample_consistency(student, noise, labels=labels)),
    ):
        image_grid(ax, x, columns=len(names))
        ax.set_title(title, color=color, loc="left", fontweight="bold")
    for i, name in enumerate(names):
        side, pad = noise.shape[-1], 1
        axes[1].text(
            (side + pad) * i + side / 2, side + 3, name, ha="center", va="top", fontsize=9, color=INK
        )
    save(figure, "photos", transparent=True)


def save(figure: Figure, name: str, transparent: bool = False) -> None:
    """Ink on paper for what the page inverts in the dark; photographs stand on the page itself."""
    figure.savefig(
        f"book/_static/{name}.png",
        facecolor="none" if transparent else "white",
        transparent=transparent,
        dpi=220 if transparent else 130,
    )


if __name__ == "__main__":
    main()
