"""Recipes: the paper's numbers, networks of the promised size, and a way through JSON and back."""

import json
from dataclasses import replace

import pytest
import torch

from cdedu.losses import DISTANCES
from cdedu.networks import UNet
from cdedu.recipes import Network, Recipe, StudentStage, get_recipe, read_recipes, recipes

SIZES = {"toy": (2,), "modes": (2,), "points": (48, 3), "digits": (1, 8, 8), "labelled-digits": (1, 8, 8), "latent-digits": (2, 4, 4), "clips": (6, 14, 14), "channels": (6, 14, 14), "frames": (1, 14, 14), "tinted-digits": (3, 8, 8), "imagenet64": (3, 64, 64), "lsun256": (3, 256, 256)}  # fmt: skip


def network(name: str) -> torch.nn.Module:
    with torch.device("meta"):
        return recipes[name].network.build(SIZES.get(name, (3, 32, 32)))


def parameters(name: str) -> int:
    return sum(p.numel() for p in network(name).parameters())


@pytest.mark.parametrize("name", recipes)
def test_a_recipe_comes_back_from_json_and_builds_its_network(name):
    recipe = recipes[name]
    assert recipe.name == name
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert {
        "mlp": "MLP",
        "unet": "UNet",
        "ddpmpp": "DDPMpp",
        "ncsnpp": "DDPMpp",
        "adm": "ADM",
        "set": "SetNetwork",
        "video": "VideoUNet",
    }[recipe.network.kind] == type(network(name)).__name__
    assert recipe.student.distance in DISTANCES
    assert recipe.noise_scale == (250 if recipe.network.kind in ("unet", "video") else 0.25)


@pytest.mark.parametrize("part", ["network", "teacher", "student"])
def test_a_recipe_from_json_keeps_every_field(part):
    """Also fields that no recipe changes."""
    changed = replace(
        recipes["cifar10"], sigma_data=0.7, sigma_min=0.01, sigma_max=50.0, rho=5.0, noise_scale=3.0, block=4,
        seed=9, network=Network("unet", 8, 2, (1, 3), (8, 4), 0.2, 7),
    )  # fmt: skip
    back = Recipe.from_dict(json.loads(json.dumps(changed.to_dict())))
    assert back == changed and getattr(back, part) == getattr(changed, part)


# learning rate, batch, μ, N, EMA, iterations, second σ: table 3 of the paper, and the second levels found there
TABLE_3 = {
    "cifar10": (4e-4, 512, 0.0, 18, 0.9999, 800_000, 0.585),
    "imagenet64": (8e-6, 2048, 0.95, 40, 0.999943, 600_000, 1.382),
    "lsun256": (1e-5, 2048, 0.95, 40, 0.999943, 600_000, 4.366),
}


@pytest.mark.parametrize("name", TABLE_3)
def test_large_recipes_are_table_3_of_the_paper(name):
    recipe, stage = recipes[name], recipes[name].student
    assert TABLE_3[name] == (
        stage.lr, stage.batch, stage.target_rate, stage.points, stage.ema, stage.steps, stage.second_sigma,
    )  # fmt: skip
    assert (recipe.sigma_min, recipe.sigma_max, recipe.rho, recipe.sigma_data) == (0.002, 80.0, 7.0, 0.5)
    assert (stage.method, stage.solver, stage.distance, stage.weight) == (
        "distillation",
        "heun",
        "lpips",
        "uniform",
    )
    assert (stage.index, stage.warmup, stage.dropout) == ("uniform", 0, 0.0)
    assert min(abs(recipe.sigmas() - stage.second_sigma)) < 5e-3 * stage.second_sigma


def test_the_teacher_of_cifar10_is_edms():
    """200 million images, a ramp of 10 million, a half-life of half a million."""
    recipe, stage = recipes["cifar10"], recipes["cifar10"].teacher
    assert stage.steps * stage.batch == 200_000_000 and stage.lr == 1e-3 and recipe.flip
    assert stage.warmup * stage.batch == pytest.approx(10e6, rel=1e-4)
    assert stage.ema == pytest.approx(0.5 ** (stage.batch / 500_000), abs=2e-5)
    assert (stage.log_sigma.mean, stage.log_sigma.std, recipe.network.dropout) == (-1.2, 1.2, 0.13)


def test_the_teacher_of_imagenet64_is_edms_and_openai_mirrors_its_images():
    """--duration=2500 --batch=4096 --ema=50 --lr=1e-4 --dropout=0.10 of NVlabs/edm; random_flip of openai/consistency_models."""
    recipe, stage = recipes["imagenet64"], recipes["imagenet64"].teacher
    assert (stage.steps - 1) * stage.batch < 2_500_000_000 <= stage.steps * stage.batch
    assert stage.ema == pytest.approx(0.5 ** (stage.batch / 50e6), abs=1e-6)
    assert stage.warmup == 10_000_000 // stage.batch
    assert (stage.lr, recipe.network.dropout, recipe.flip) == (1e-4, 0.1, True)


def test_easy_tuning_mirrors_no_images_as_in_ect():
    assert not recipes["cifar10-easy"].flip and recipes["cifar10-ddpmpp"].flip


def test_the_network_of_cifar10_is_openais_and_that_of_the_easy_recipe_is_ects():
    """configs/cifar10_ve_cd.py and cifar10_k_ve.py of openai/consistency_models_cifar10; ECT starts from EDM's DDPM++."""
    ncsnpp = Network("ncsnpp", 128, 4, (2, 2, 2), (16,), dropout=0.13)
    assert recipes["cifar10"].network == recipes["cifar10-huber"].network == ncsnpp
    ddpmpp = replace(ncsnpp, kind="ddpmpp")
    assert recipes["cifar10-ddpmpp"] == replace(recipes["cifar10"], name="cifar10-ddpmpp", network=ddpmpp)
    assert recipes["cifar10-easy"].network == ddpmpp


def test_networks_have_the_promised_sizes():
    assert parameters("cifar10-ddpmpp") == parameters("cifar10-easy") == 55_732_739
    # NCSN++ has twice the sines, and two convolutions that hand the image down.
    more = 128 * 512 + (9 * 3 * 256 + 256) + (9 * 256 * 256 + 256)
    assert parameters("cifar10") == parameters("cifar10-huber") == 55_732_739 + more
    assert parameters("cifar10-small") <= 4e6
    assert parameters("imagenet64") == 295_899_267 and 100e6 < parameters("lsun256") < 500e6


def test_a_unet_has_attention_where_the_recipe_says():
    recipe, net = recipes["cifar10-small"], network("cifar10-small")
    assert isinstance(net, UNet) and recipe.network.attention == (8,)
    sides = [32 >> level for level in range(len(recipe.network.multipliers))]
    for blocks, order in ((net.net.down_blocks, sides), (net.net.up_blocks, reversed(sides))):
        assert [type(b).__name__.startswith("Attn") for b in blocks] == [side == 8 for side in order]


@pytest.mark.parametrize("name", ["cifar10", "cifar10-small", "imagenet64", "lsun256"])
def test_batches_hold_whole_blocks_on_1_8_and_64_gpus(name):
    recipe = recipes[name]
    for stage in (recipe.teacher, recipe.student):
        for gpus in (1, 8, *([64] if stage.batch >= 1024 else [])):
            assert stage.batch % (gpus * recipe.block) == 0
    assert recipe.block and recipe.cpu_batch


@pytest.mark.parametrize(
    "stage, field, value",
    [
        (Network, "kind", "unett"),
        (StudentStage, "solver", "hnue"),
        (StudentStage, "distance", "l3"),
        (StudentStage, "weight", "uniforn"),
        (StudentStage, "index", ["uniform"]),
        (StudentStage, "method", "distilation"),
    ],
)
def test_a_slip_of_the_pen_is_found_when_a_recipe_is_made(stage, field, value):
    with pytest.raises(
        ValueError, match=rf"{stage.__name__}: {field} = .* is not known; choose one of '\w+', '"
    ):
        stage(**{field: value})
    values = recipes["toy"].to_dict()
    values["network" if stage is Network else "student"][field] = value
    with pytest.raises(ValueError, match=f"{field} = "):
        Recipe.from_dict(values)


MINE = """
[mine]
like = "digits"
seed = 7
network = { width = 16 }
student = { lr = 1e-4, log_sigma = { mean = -1.0 } }
"""


def test_a_recipe_of_your_own_is_another_one_with_changes(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(MINE)
    digits = recipes["digits"]
    wanted = replace(
        digits,
        name="mine",
        seed=7,
        network=replace(digits.network, width=16),
        student=replace(digits.student, lr=1e-4, log_sigma=replace(digits.student.log_sigma, mean=-1.0)),
    )
    assert get_recipe(str(path)) == wanted and get_recipe(str(path), seed=1).seed == 1
    path.write_text(MINE + '[again]\nlike = "mine"\nseed = 8\n')
    assert read_recipes(path) == {"mine": wanted, "again": replace(wanted, name="again", seed=8)}
    with pytest.raises(ValueError, match=r"mine.toml holds 2 recipes; leave one in it"):
        get_recipe(str(path))


@pytest.mark.parametrize(
    "line, words",
    [
        (
            'student = { sovler = "heun" }',
            r"recipe 'mine'.student has no field 'sovler'; its fields are .*solver",
        ),
        ('student = { solver = "hnue" }', r"solver = 'hnue' is not known; choose one of 'heun', 'euler'"),
        ("student = 3", r"mine.toml: "),
        ("sede = 3", r"recipe 'mine' has no field 'sede'"),
        ("teacher = { lr = -1.0 }", r"teacher.lr = -1.0, but it must be positive"),
        ("student = { log_sigma = { sigma = 1 } }", r"student.log_sigma has no field 'sigma'"),
        ('data = ""', r"recipe 'mine' does not say its data"),
        ('like = "digist"', r"the recipe 'digist' that 'mine' is like is not known"),
        ("seed = ", r"mine.toml: "),
        ('like = ["digits"]', r"recipe 'mine': like = \['digits'\], but it must be the name of one recipe"),
        (
            "student = { second_sigma = 80.0 }",
            r"student.second_sigma = 80, but it must be at least sigma_min = 0.002 and below sigma_max = 80",
        ),
        (
            "student = { second_sigma = 1e-9 }",
            r"student.second_sigma = 1e-09, but it must be at least sigma_min",
        ),
        ("rho = 1e-300", r"mine.toml: a noise grid up to 80 cannot be computed with rho = 1e-300"),
    ],
)
def test_a_slip_in_a_file_is_named_with_its_place(tmp_path, line, words):
    path = tmp_path / "mine.toml"
    path.write_text("[mine]\n" + 'data = "digits"\n' * ("data" not in line) + line)
    with pytest.raises(ValueError, match=words) as caught:
        get_recipe(str(path))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "name", ["../up", "a/b", "/tmp/a", "", ".hidden", "a\\nb", "a\\u0000b", "x" * 61, "two words"]
)
def test_a_recipe_is_called_as_its_files_can_be(tmp_path, name):
    path = tmp_path / "mine.toml"
    path.write_text(f'["{name}"]\ndata = "digits"\n')
    with pytest.raises(ValueError, match="mine.toml: recipe .*: files are named after it, so give letters"):
        get_recipe(str(path))


def test_a_file_is_text_of_tables(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('\ufeff[mine]\nlike = "digits"\n', encoding="utf-8")  # as Notepad saves it
    assert get_recipe(str(path)) == replace(recipes["digits"], name="mine")
    path.write_text('[mine]\nlike = "digits"\n', encoding="utf-16")
    with pytest.raises(ValueError, match="mine.toml is no text in UTF-8"):
        get_recipe(str(path))
    path.write_text('data = "digits"\n[mine]\nseed = 3\n')
    with pytest.raises(ValueError, match="data = 'digits' is outside any table; the first line"):
        get_recipe(str(path))
    with pytest.raises(ValueError, match="is a folder, not a file"):
        (tmp_path / "folder.toml").mkdir()
        get_recipe(str(tmp_path / "folder.toml"))


@pytest.mark.parametrize(
    "recipe, network, words",
    [
        ("digits", {"multipliers": ()}, "multipliers is a tuple of 0, but it must be a list of 1 to 8"),
        (
            "digits",
            {"width": 10**20},
            "width = 100000000000000000000, but it must be a whole number from 1 to 8192",
        ),
        ("toy", {"width": 10**6}, "width = 1000000, but it must be"),
        ("toy", {"depth": 10**7}, "depth = 10000000, but it must be"),
        (
            "digits",
            {"kind": "ddpmpp", "width": 3},
            "width = 3, but kind 'ddpmpp' normalizes groups of 4 channels",
        ),
    ],
)
def test_a_network_that_nobody_can_build_is_refused_before_it_is_built(recipe, network, words):
    shape = (2,) if recipe == "toy" else (1, 8, 8)
    with pytest.raises(ValueError, match=words):
        replace(recipes[recipe].network, **network).build(shape)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"flip": "no"}, "flip = 'no', but it must be true or false"),
        ({"seed": 1.5}, "seed = 1.5, but it must be a whole number, from 0"),
        ({"data": 3}, "data = 3, but it must be a text"),
        ({"cpu_batch": "8"}, "cpu_batch = '8', but it must be a whole number, at least 1"),
        ({"sigma_max": 10**400}, "sigma_max = a number of 1,329 bits, but it must be positive and finite"),
        ({"network": {"multipliers": 3}}, "network.multipliers = 3, but it must be a list"),
        ({"network": {"multipliers": [1, 1.5]}}, r"network.multipliers = .*, but it must be a whole number, at least 1, each"),
        ({"network": {"width": 8.0}}, "network.width = 8.0, but it must be a whole number"),
        ({"network": {"guided": 1}}, "network.guided = 1, but it must be true or false"),
        ({"teacher": {"log_sigma": {"std": 0}}}, "teacher.log_sigma.std = 0, but it must be above 0"),
        ({"student": {"log_sigma": {"mean": float("nan")}}}, "student.log_sigma.mean = nan, but it must be from -100 to 100"),
        ({"student": {"log_sigma": 1}}, "student.log_sigma = 1, but it must be a table"),
        ({"student": "fast"}, "recipe 'toy'.student = 'fast', but it must be a table"),
    ],
)  # fmt: skip
def test_a_field_of_another_type_is_refused_by_its_place(change, words):
    values = recipes["toy"].to_dict()
    for name, value in change.items():
        values[name] = values[name] | value if isinstance(value, dict) else value
    with pytest.raises(ValueError, match=words):
        Recipe.from_dict(values)


@pytest.mark.parametrize("needed", ["name", "data"])
def test_a_recipe_without_what_it_needs_is_refused(needed):
    values = recipes["toy"].to_dict()
    del values[needed]
    with pytest.raises(ValueError, match=f"has no field {needed!r}, which it needs"):
        Recipe.from_dict(values)


def test_what_a_recipe_cannot_be_is_said(tmp_path):
    with pytest.raises(OSError):
        get_recipe(str(tmp_path / "nowhere.toml"))
    with pytest.raises(ValueError, match="'digit' is not known; choose one of toy, .* or give a file.toml"):
        get_recipe("digit")
    for place, value, words in (
        ("steps", 0, "at least 1"), ("lr", float("nan"), "positive"), ("ema", 1.0, "at least 0 and below 1"),
        ("more_emas", (0.9, 1.0), "each"), ("target_rate", -0.1, "below 1"), ("easy_stages", 0, "at least 1"),
        ("tangent_warmup", -1, "at least 0"),
    ):  # fmt: skip
        toy = recipes["toy"]
        with pytest.raises(ValueError, match=rf"student.{place} = .*, but it must be .*{words}"):
            replace(toy, student=replace(toy.student, **{place: value}))
