"""Train the teacher of chapter 15 on 25 known modes: `python scripts/train_modes_teacher.py`.

The mixture is known, so the network is fitted to the exact denoiser in place of the data. The minimum is the same, and the noise in
the target is gone: after as many steps as here, a network of this size that sees only data leaves half of its samples between modes.
"""

import time
from dataclasses import replace

import torch
from tqdm import trange

from cdedu.checkpoints import WEIGHTS, save
from cdedu.data.modes import mode_data, mode_grid
from cdedu.evaluation import spread
from cdedu.evaluation.comparison import Ruler
from cdedu.evaluation.modes import mode_coverage
from cdedu.losses import edm_weight, l2
from cdedu.noise import LogNormal, add_noise
from cdedu.recipes import get_recipe
from cdedu.records import write_record
from cdedu.samplers import sample_heun
from cdedu.teacher import Teacher

STEPS, BATCH, LR, SEED, NOISE = 6000, 512, 4e-3, 0, LogNormal(-1.6, 1.4)


def main() -> None:
    """Train, measure with 35 evaluations beside draws of the mixture, write the weights and a record."""
    torch.set_num_threads(1)
    start, exact = time.perf_counter(), mode_grid()
    recipe = replace(get_recipe("toy"), name="modes", data="modes", seed=SEED)
    torch.manual_seed(SEED)
    teacher = Teacher(recipe.network.build((2,)), recipe.sigma_data, recipe.noise_scale)
    optimizer = torch.optim.Adam(teacher.parameters(), lr=LR)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, STEPS)
    for _ in trange(STEPS):
        sigma = NOISE.sample(BATCH)
        x = add_noise(exact.sample(BATCH), sigma, torch.randn(BATCH, 2))
        loss = (edm_weight(sigma, recipe.sigma_data) * l2(teacher(x, sigma), exact(x, sigma))).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    data = mode_data(exact)
    ruler, metrics = Ruler(data), {}
    for name in ("floor", "teacher"):
        rows = []
        for seed in range(5):
            g = torch.Generator().manual_seed(10 + seed)
            with torch.no_grad():
                x = exact.sample(ruler.n, g) if name == "floor" else 80 * torch.randn(ruler.n, 2, generator=g)
                x = x if name == "floor" else sample_heun(teacher, x, recipe.sigmas(18))
            rows.append({**ruler.measure(x), **mode_coverage(x, exact)})
        metrics[name] = {key: spread([row[key] for row in rows]) for key in rows[0]}
    save(WEIGHTS / "modes-teacher.safetensors", teacher, recipe, (2,))
    write_record(
        "results/modes-teacher.json",
        command="python scripts/train_modes_teacher.py",
        metrics={**metrics, "steps": STEPS, "batch": BATCH},
        seed=SEED,
        data=data.describe(),
        seconds=time.perf_counter() - start,
    )
    print(metrics)


if __name__ == "__main__":
    main()
