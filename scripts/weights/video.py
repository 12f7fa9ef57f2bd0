"""Train the teachers of chapter 16: `python scripts/weights/video.py clips frames points`.

Of clips of moving digits, of their single frames, and of clouds of points. Weights are kept in half precision; what the study measures
is what is kept, and `scripts/studies/video.py` makes their students. Some seven minutes on one core for clips, two for each of the
others.
"""

from cdedu.data import load_data
from cdedu.recipes import get_recipe
from cdedu.training import train_teacher
from scripts.studies.bench import arguments, trained
from scripts.weights.ship import ship


def main() -> None:
    """Every teacher that is named."""
    for kind in arguments(__doc__, ("clips", "frames", "points")).parts:
        recipe = get_recipe(kind)
        data = load_data(recipe.data)
        state, seconds = trained(train_teacher(recipe, data), kind)
        facts = {"step": state.step, "cpu_seconds": round(seconds)}
        ship(f"{kind}-teacher", state.result, recipe, data.train.shape[1:], half=True, **facts)


if __name__ == "__main__":
    main()
