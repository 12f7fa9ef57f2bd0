"""The picture in the README: `python scripts/book/readme_picture.py` writes book/_static/teacher-student.png."""

import matplotlib.pyplot as plt
import torch

import cdedu
from cdedu.plotting import STUDENT, TEACHER, image_grid, use_style
from cdedu.recipes import recipes


def main() -> None:
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
    use_style()
    figure, axes = plt.subplots(2, 1, figsize=(9, 1.9))
    for ax, (title, color, x) in zip(axes, rows, strict=True):
        image_grid(ax, x, columns=n)
        ax.set_title(title, color=color, loc="left", fontweight="bold")
    figure.savefig("book/_static/teacher-student.png", facecolor="white", transparent=False, dpi=130)


if __name__ == "__main__":
    main()
