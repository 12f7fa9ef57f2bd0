"""Train the teachers of chapter 16: `python scripts/train_video.py clips frames points`, then `python scripts/hash_weights.py`.

Of clips of moving digits, of their single frames, and of clouds of points. Weights are kept in half precision; what the study measures
is what is kept. Some seven minutes on one core for clips, two for each of the others.
"""

import argparse
import copy
import time
from dataclasses import replace

import torch
from tqdm import tqdm

from cdedu.checkpoints import WEIGHTS, save
from cdedu.data import Dataset, points, video
from cdedu.recipes import Recipe
from cdedu.training import train_teacher


def task(kind: str) -> tuple[Recipe, Dataset]:
    """The recipe and the data of one kind."""
    if kind == "points":
        return points.RECIPE, points.clouds()
    clips, stage = video.moving_digits(), video.RECIPE.teacher
    if kind == "clips":
        return video.RECIPE, clips
    return replace(video.RECIPE, teacher=replace(stage, steps=stage.steps // 3)), video.single_frames(clips)


def main() -> None:
    """Every teacher that is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("which", nargs="+", choices=("clips", "frames", "points"))
    torch.set_num_threads(1)
    for kind in parser.parse_args().which:
        recipe, data = task(kind)
        start = time.process_time()
        for state in tqdm(train_teacher(recipe, data), total=recipe.teacher.steps, desc=kind, mininterval=20):
            pass
        seconds = round(time.process_time() - start)
        small = copy.deepcopy(state.result).half()
        path = WEIGHTS / f"{kind}-teacher.safetensors"
        save(path, small, recipe, data.train.shape[1:], step=state.step, cpu_seconds=seconds)


if __name__ == "__main__":
    main()
