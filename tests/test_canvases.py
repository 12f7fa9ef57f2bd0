"""Captioned canvases, their referee, and the text-to-image teacher in Stable Diffusion's parts that comes with the course."""

import itertools
import json

import pytest
import torch

from cdedu.checkpoints import WEIGHTS
from cdedu.data import digits
from cdedu.data.canvases import (
    CELL,
    NAMES,
    SIZE,
    VALUES,
    _corners,
    attributes_of,
    canvases,
    caption,
    combinations,
)
from cdedu.evaluation import canvas_referee
from cdedu.files import sha256
from cdedu.records import read_record
from scripts.studies.bench import RESULTS

TEACHER = WEIGHTS / "captioned-teacher"


# --- data ------------------------------------------------------------------------------------------


def test_canvases_are_those_of_their_seed():
    a, b, other = canvases(40, 3), canvases(40, 3), canvases(40, 4)
    assert torch.equal(a.images, b.images) and a.captions == b.captions
    assert torch.equal(a.attributes, b.attributes) and not torch.equal(a.attributes, other.attributes)
    assert a.images.shape == (40, 3, SIZE, SIZE) and a.images.dtype == torch.float32
    assert -1 <= a.images.min() < -0.9 and 0.9 < a.images.max() <= 1
    assert a.attributes.dtype == torch.int64 and a.captions == [caption(row) for row in a.attributes]


def test_captions_and_attributes_are_inverse():
    every = combinations()
    captions = [caption(row) for row in every]
    assert len({*captions}) == len(every) == 3 * 2 * 10 * 4
    assert torch.equal(torch.stack([attributes_of(text) for text in captions]), every)
    assert caption(torch.tensor([2, 0, 7, 0])) == "three dark sevens on the left"
    assert caption(torch.tensor([0, 1, 4, 2])) == "one bright four at the top"
    assert caption(torch.tensor([1, 1, 6, 3])) == "two bright sixes at the bottom"


def test_what_names_nothing_is_refused():
    with pytest.raises(ValueError, match=r"'three dark cats' is no caption of a canvas; one reads"):
        attributes_of("three dark cats")
    for wrong in ([3, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0]):
        with pytest.raises(ValueError, match=r"count 0\.\.2, shade 0\.\.1, digit 0\.\.9, place 0\.\.3"):
            caption(torch.tensor(wrong))
    with pytest.raises(ValueError, match="n = 0, but there must be at least one"):
        canvases(0, 0)


def test_squares_lie_inside_on_their_side_and_have_no_pixel_in_common():
    n = 4000
    g = torch.Generator().manual_seed(0)
    count, place = torch.randint(1, 4, (n,), generator=g), torch.randint(4, (n,), generator=g)
    row, column = _corners(count, place, g)
    used = torch.arange(3) < count[:, None]
    for corner in (row, column):
        assert corner[used].min() >= 0 and corner[used].max() <= SIZE - CELL
    for i, j in itertools.combinations(range(3), 2):
        apart = torch.maximum((row[:, i] - row[:, j]).abs(), (column[:, i] - column[:, j]).abs())
        assert apart[used[:, j]].min() > CELL, "no free pixel between two digits"
    # Squares keep to their half of the canvas, and a lone digit to the middle of its side.
    for side, corner in enumerate((column, column, row, row)):
        here = corner[(place == side)[:, None] & used]
        assert here.max() + CELL <= SIZE // 2 if side % 2 == 0 else here.min() >= SIZE // 2
    alone = torch.where(place < 2, row[:, 0], column[:, 0])[count == 1] + CELL / 2 - SIZE / 2
    assert alone.abs().max() <= 4


def test_a_canvas_shows_digits_of_its_label_from_its_part_of_the_data():
    """Every square, on the grid that it was enlarged from, is nearest to a digit of the label; of the held-out ones where it should be."""
    data = digits()
    for held_out in (False, True):
        made = canvases(60, 5, held_out)
        parts = {False: data.train, True: data.test}
        labels = {False: data.train_labels, True: data.test_labels}
        enlarged = {
            part: torch.nn.functional.interpolate(x, (CELL, CELL), mode="bicubic").clamp(-1, 1)[:, 0] / 2
            + 0.5
            for part, x in parts.items()
        }
        for image, row in zip(made.images[:, 0], made.attributes, strict=True):
            ink = image * (2 * row[1] - 1)
            assert ink.min() >= 0, "a canvas has one shade"
            # A digit's picture lies somewhere on the canvas as it is: correlate with all of them.
            nearest = {}
            for part, x in enlarged.items():
                inside = torch.nn.functional.conv2d(ink[None, None], x[:, None])[0]
                own = torch.nn.functional.conv2d(ink[None, None].square(), torch.ones(1, 1, CELL, CELL))[0]
                nearest[part] = (own - 2 * inside + x.square().sum((1, 2))[:, None, None]).amin((1, 2))
            best = nearest[held_out].argsort()[: int(row[0]) + 1]
            assert nearest[held_out].min() < 1e-3 < nearest[not held_out].min()
            assert labels[held_out][best[0]] == row[2]


# --- referee and teacher -----------------------------------------------------------------------------


def test_the_referee_reads_held_out_canvases():
    made = canvases(200, 11, held_out=True)
    right = canvas_referee().read(made.images) == made.attributes
    assert right.float().mean(0).min() > 0.9 and right.all(1).float().mean() > 0.85
    assert torch.equal(canvas_referee().read(made.images[:, :1]), canvas_referee().read(made.images))


def test_the_record_is_that_of_the_shipped_files():
    weights = read_record(RESULTS / "captioned.json")["weights"]
    files = {path.relative_to(WEIGHTS).as_posix() for path in TEACHER.rglob("*") if path.is_file()}
    assert {*weights} == files | {"canvases-referee.safetensors"}
    assert {name: sha256(WEIGHTS / name) for name in weights} == weights
    assert sum((WEIGHTS / name).stat().st_size for name in files) < 2.5e6


@pytest.fixture(scope="module")
def pipeline():
    pytest.importorskip("transformers")
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(TEACHER)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_a_word_is_a_token(pipeline):
    ids = pipeline.tokenizer([caption(row) for row in combinations()] + [""]).input_ids
    assert {len(row) for row in ids[:-1]} == {8} and len(ids[-1]) == 2
    assert len({tuple(row) for row in ids}) == 241
    words = {word for row in combinations() for word in caption(row).split()}
    assert len({i for row in ids for i in row}) == len(words) + 2
    assert pipeline.tokenizer("dog").input_ids[1:-1] == pipeline.tokenizer.convert_tokens_to_ids(["d", "o", "g</w>"])  # fmt: skip


def test_the_parts_have_stable_diffusions_settings(pipeline):
    names = {"vae": "AutoencoderKL", "text_encoder": "CLIPTextModel", "tokenizer": "CLIPTokenizer", "unet": "UNet2DConditionModel"}  # fmt: skip
    index = json.loads((TEACHER / "model_index.json").read_text(encoding="utf-8"))
    assert {part: index[part][1] for part in names} == names
    assert pipeline.vae_scale_factor == 4 and pipeline.unet.config.sample_size == 8
    config = pipeline.scheduler.config
    assert (config.beta_start, config.beta_end, config.beta_schedule) == (0.00085, 0.012, "scaled_linear")
    assert config.prediction_type == "epsilon" and config.steps_offset == 1 and not config.clip_sample
    assert not config.set_alpha_to_one and pipeline.unet.dtype == torch.float32


def test_latents_have_unit_variance_and_pictures_come_back(pipeline):
    made, vae = canvases(100, 12, held_out=True), pipeline.vae
    with torch.no_grad():
        latents = vae.encode(made.images).latent_dist.mean * vae.config.scaling_factor
        again = vae.decode(latents / vae.config.scaling_factor).sample
    assert latents.shape == (100, 4, 8, 8) and 0.9 < latents.std() < 1.1
    assert (again - made.images).square().mean() < 0.1 * made.images.square().mean()


def test_the_teacher_draws_what_the_caption_says(pipeline):
    attributes = combinations()[torch.arange(24) * 97 % 240]
    g = torch.Generator().manual_seed(0)
    drawn = pipeline(
        [caption(row) for row in attributes],
        num_inference_steps=8, guidance_scale=4.0, height=SIZE, width=SIZE, generator=g, output_type="pt",
    )  # fmt: skip
    assert drawn.images.isfinite().all() and drawn.images.shape == (24, 3, SIZE, SIZE)
    right = (canvas_referee().read(2 * drawn.images - 1) == attributes).float().mean(0)
    for name, share, values in zip(NAMES, right.tolist(), VALUES, strict=True):
        assert share > 1 / len(values) + 0.25, f"{name} is right in {share:.2f}"
