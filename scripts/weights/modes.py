"""Train the teacher of chapter 15 on 25 known modes: `python scripts/weights/modes.py`.

The mixture is known, so the network is fitted to the exact denoiser in place of the data. The minimum is the same, and the noise in
the target is gone: after as many steps as here, a network of this size that sees only data leaves half of its samples between modes.
"""

import time

import torch
from tqdm import trange

from cdedu.course.measures.modes import mode_coverage
from cdedu.data.modes import mode_data, mode_grid
from cdedu.evaluation.comparison import Ruler
from cdedu.losses import edm_weight, l2
from cdedu.noise import LogNormal, add_noise
from cdedu.recipes import get_recipe
from cdedu.records import write_record
from cdedu.samplers import sample_heun
from cdedu.teacher import Teacher
from scripts.studies.bench import arguments, command, noise, spreads
from scripts.weights.ship import ship

STEPS, BATCH, LR, SEED, LEVELS = 6000, 512, 4e-3, 0, LogNormal(-1.6, 1.4)


def main() -> None:
    """Train, measure with 35 evaluations beside draws of the mixture, write the weights and a record."""
    results = arguments(__doc__).results
    start, exact = time.perf_counter(), mode_grid()
    recipe = get_recipe("modes", seed=SEED)
    torch.manual_seed(SEED)
    teacher = Teacher(recipe.network.build((2,)), recipe.sigma_data, recipe.noise_scale)
    optimizer = torch.optim.Adam(teacher.parameters(), lr=LR)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, STEPS)
    for _ in trange(STEPS):
        sigma = LEVELS.sample(BATCH)
        x = add_noise(exact.sample(BATCH), sigma, torch.randn(BATCH, 2))
        loss = (edm_weight(sigma, recipe.sigma_data) * l2(teacher(x, sigma), exact(x, sigma))).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    teacher = ship("modes-teacher", teacher, recipe, (2,))
    data = mode_data(exact)
    ruler, metrics = Ruler(data), {}
    for name in ("floor", "teacher"):
        rows = []
        for seed in range(5):
            g = torch.Generator().manual_seed(10 + seed)
            if name == "floor":
                x = exact.sample(ruler.n, g)
            else:
                x = sample_heun(teacher, noise(recipe, (ruler.n, 2), g), recipe.sigmas(18))
            rows.append({**ruler.measure(x), **mode_coverage(x, exact)})
        metrics[name] = spreads(rows)
    write_record(
        results / "modes-teacher.json",
        command=command(__file__),
        metrics={**metrics, "steps": STEPS, "batch": BATCH},
        seed=SEED,
        data=data.describe(),
        seconds=time.perf_counter() - start,
    )
    print(metrics)


if __name__ == "__main__":
    main()
