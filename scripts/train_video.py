"""Train what chapter 16 loads: `python scripts/train_video.py clips frames points`, then `python scripts/hash_weights.py`.

The teacher of clips of moving digits, the teacher of their single frames, a student of each, and a teacher of clouds of points. Weights
are kept in half precision; what the study measures is what is kept. Some ten minutes for a teacher of clips on one core.
"""

import argparse
import copy
import time
from dataclasses import replace

import torch
from tqdm import tqdm

from cdedu import points, video
from cdedu.checkpoints import WEIGHTS, load, save
from cdedu.data import Dataset
from cdedu.recipes import Recipe
from cdedu.training import distill, train_teacher


def task(kind: str) -> tuple[Recipe, Dataset]:
    """The recipe and the data of one kind."""
    if kind == "points":
        return points.RECIPE, points.clouds()
    clips = video.moving_digits()
    return video.RECIPE, clips if kind == "clips" else video.single_frames(clips)


def main() -> None:
    """Teacher, then student, of each kind that is named; clouds have a teacher only."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("which", nargs="+", choices=("clips", "frames", "points"))
    parser.add_argument("--steps", type=int, help="fewer steps, for a trial")
    parser.add_argument("--folder", default=WEIGHTS, help="where to write")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for kind in arguments.which:
        recipe, data = task(kind)
        for role in ("teacher",) if kind == "points" else ("teacher", "student"):
            stage = getattr(recipe, role)
            recipe = replace(recipe, **{role: replace(stage, steps=arguments.steps or stage.steps)})
            start = time.process_time()
            if role == "teacher":
                run = train_teacher(recipe, data)
            else:
                run = distill(recipe, load(f"{arguments.folder}/{kind}-teacher.safetensors"), data)
            for state in tqdm(run, total=getattr(recipe, role).steps, desc=f"{kind} {role}", mininterval=20):
                pass
            facts = {
                "step": state.step,
                "cpu_seconds": round(time.process_time() - start),
                "loss": state.loss,
            }
            small = copy.deepcopy(state.result).half()
            save(
                f"{arguments.folder}/{kind}-{role}.safetensors", small, recipe, data.train.shape[1:], **facts
            )


if __name__ == "__main__":
    main()
