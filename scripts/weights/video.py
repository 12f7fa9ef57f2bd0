"""Train the teachers of chapter 16: `python scripts/weights/video.py frames clips points`.

Of single frames of moving digits, of clips, and of clouds of points. The teacher of clips begins as that of frames, with layers for time
put in that change nothing yet, and then all of it is trained. Weights are kept in half precision; what the study measures is what is
kept, and `scripts/studies/video.py` makes their students. Some three minutes on one core for clips, two for each of the others.
"""

import cdedu
from cdedu.data import load_data
from cdedu.networks.video import VideoUNet
from cdedu.recipes import Recipe, get_recipe
from cdedu.training import train_teacher
from scripts.studies.bench import arguments, trained
from scripts.weights.ship import ship


def of_pictures(recipe: Recipe, frames: int) -> cdedu.Teacher:
    """What the teacher of clips begins as: that of frames, with layers for time."""
    network = VideoUNet(cdedu.load("frames-teacher").network.net, frames)
    return cdedu.Teacher(network, recipe.sigma_data, recipe.noise_scale)


def main() -> None:
    """Every teacher that is named."""
    for kind in arguments(__doc__, ("frames", "clips", "points")).parts:
        recipe = get_recipe(kind)
        data = load_data(recipe.data)
        start = of_pictures(recipe, data.train.shape[1]) if kind == "clips" else None
        state, seconds = trained(train_teacher(recipe, data, start=start), kind)
        facts = {"step": state.step, "cpu_seconds": round(seconds)}
        ship(f"{kind}-teacher", state.result, recipe, data.train.shape[1:], half=True, **facts)


if __name__ == "__main__":
    main()
