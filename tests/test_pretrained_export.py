"""An exported student makes the same images in diffusers as here, and comes back as what it was."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import ConsistencyModelPipeline
from safetensors import SafetensorError

from cdedu import checkpoints
from cdedu.checkpoints import Header
from cdedu.networks import MLP, unet
from cdedu.networks.guided import WeightedUNet
from cdedu.pretrained import export_pipeline, load_teacher
from cdedu.pretrained.pipeline import model_card, second_index
from cdedu.recipes import Network, get_recipe
from cdedu.samplers import sample_consistency
from cdedu.student import ConsistencyModel, DenoiserStudent
from cdedu.teacher import Teacher


def recipe(classes: int = 0):
    plain = get_recipe("digits", network=Network("unet", width=8, depth=1, classes=classes))
    return replace(plain, student=replace(plain.student, points=18, second_sigma=0.585))


def student(classes: int = 0, eps: float = 0.002) -> ConsistencyModel:
    torch.manual_seed(0)
    net = unet(8, 1, (8, 16), classes=classes)
    torch.nn.init.normal_(net.net.conv_out.weight, std=0.2)
    return ConsistencyModel(net, 0.5, eps, noise_scale=250.0).eval()


def ours(model, levels, classes: int, seed: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = 80 * torch.randn(4, 1, 8, 8, generator=generator)
    cond = {"labels": torch.arange(4) % classes} if classes else {}
    return (sample_consistency(model, x, levels, generator, **cond) / 2 + 0.5).clamp(0, 1)


def theirs(pipe, timesteps, classes: int, seed: int = 3) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    options = {"class_labels": [i % classes for i in range(4)]} if classes else {}
    generator = torch.Generator().manual_seed(seed)
    steps = {"num_inference_steps": None, "timesteps": timesteps} if timesteps else {}
    return pipe(batch_size=4, generator=generator, output_type="pt", **steps, **options).images


@pytest.mark.parametrize("classes, eps", [(0, 0.002), (3, 0.002), (0, 0.01)])
def test_images_are_equal_in_one_and_several_steps(tmp_path, classes, eps):
    """Also after another round of saving and loading, and with the student that is read back from the pipeline."""
    model, plan = student(classes, eps), replace(recipe(classes), sigma_min=eps)
    folder = export_pipeline(model, tmp_path / "a", recipe=plan)
    grid = plan.sigmas(18).double().tolist()
    again = tmp_path / "b"
    ConsistencyModelPipeline.from_pretrained(folder).save_pretrained(again)
    for place in (folder, again):
        pipe = ConsistencyModelPipeline.from_pretrained(place)
        for timesteps in (None, [11, 0], [14, 9, 4, 0]):
            levels = [grid[i] for i in sorted(timesteps or [0])]
            wanted = ours(model, levels, classes)
            assert (theirs(pipe, timesteps, classes) - wanted).abs().max() <= 1e-5, timesteps
            assert (ours(load_teacher(place), levels, classes) - wanted).abs().max() <= 1e-7
    assert wanted.std() > 0.05  # pictures, not a flat grey that anything equals


@pytest.mark.parametrize("says", [True, False, None])
def test_a_published_student_is_clipped_as_its_scheduler_says(tmp_path, says):
    """As diffusers does; a scheduler that says nothing of it clips there. What is exported again says the same."""
    folder, grid = (
        export_pipeline(student(), tmp_path / "a", recipe=recipe()),
        recipe().sigmas(18).double().tolist(),
    )
    place = folder / "scheduler" / "scheduler_config.json"
    config = json.loads(place.read_text())
    del config["clip_denoised"]
    place.write_text(json.dumps(config | ({} if says is None else {"clip_denoised": says})))
    pipe, back = ConsistencyModelPipeline.from_pretrained(folder), load_teacher(folder)
    assert back.clip == (None if says is False else 1.0)
    for timesteps in (None, [11, 0], [14, 9, 4, 0]):
        levels = [grid[i] for i in sorted(timesteps or [0])]
        assert (theirs(pipe, timesteps, 0) - ours(back, levels, 0)).abs().max() <= 1e-5
    by_hand = [ours(lambda x, s: back(x, s).clamp(-1, 1), levels, 0), ours(back, levels, 0)]
    assert torch.equal(*by_hand) == (says is not False)
    again = export_pipeline(back, tmp_path / "b", recipe=recipe())
    config = json.loads((again / "scheduler" / "scheduler_config.json").read_text())
    assert config["clip_denoised"] is (says is not False)


def test_clipping_that_is_no_clipping_is_refused(tmp_path):
    folder = export_pipeline(student(), tmp_path / "a", recipe=recipe())
    place = folder / "scheduler" / "scheduler_config.json"
    place.write_text(place.read_text().replace('"clip_denoised": false', '"clip_denoised": "no"'))
    with pytest.raises(ValueError, match="clip_denoised = 'no', but it must be true or false"):
        load_teacher(folder)
    model = student()
    model.clip = 0.5
    with pytest.raises(ValueError, match=r"clip = 0.5, but a pipeline clips to \[−1, 1\] or not at all"):
        export_pipeline(model, tmp_path / "b", recipe=recipe())


def test_clipping_is_off_because_it_changes_images(tmp_path):
    folder = export_pipeline(student(), tmp_path / "a", recipe=recipe())
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    assert config["clip_denoised"] is False and config["num_train_timesteps"] == 18


@torch.no_grad()
def test_what_was_exported_serves_as_student_and_as_teacher(tmp_path):
    model = student()
    back = load_teacher(export_pipeline(model, tmp_path / "a", recipe=recipe()))
    assert isinstance(back, ConsistencyModel) and back.header.shape == (1, 8, 8) and back.header.classes == 0
    assert (back.sigma_data, back.sigma_min, back.sigma_max, back.noise_scale) == (0.5, 0.002, 80.0, 250.0)
    # As a teacher: the same network with ε = 0, from which a student starts as from any other.
    teacher = Teacher(back.network, back.sigma_data, back.noise_scale)
    copied = ConsistencyModel.from_teacher(teacher, back.sigma_min)
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(copied(x, 1.0), model(x, 1.0))
    # And exported once more it is the same file. The folder knows the recipe.
    assert back.header.recipe == recipe()
    copied.header = back.header
    export_pipeline(copied, tmp_path / "b")
    name = "unet/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_shipped_students_can_be_exported(tmp_path):
    model = checkpoints.load("digits-student")
    pipe = ConsistencyModelPipeline.from_pretrained(export_pipeline(model, tmp_path / "digits"))
    assert (theirs(pipe, None, 0) - ours(model, [80.0], 0)).abs().max() <= 1e-5
    card = (tmp_path / "digits" / "README.md").read_text()
    assert "| noise grid | 18 points from 80 to 0.002 |" in card and "Not stated." in card


def test_nothing_is_overwritten(tmp_path):
    folder = tmp_path / "full"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    for place in (folder, folder / "mine.txt"):
        with pytest.raises(FileExistsError, match="not empty; nothing was written"):
            export_pipeline(student(), place, recipe=recipe())
    assert (folder / "mine.txt").read_text() == "mine" and len(list(tmp_path.rglob("*"))) == 2
    empty = tmp_path / "empty"
    empty.mkdir()
    assert (export_pipeline(student(), empty, recipe=recipe()) / "model_index.json").is_file()


@pytest.mark.parametrize(
    "model, message",
    [
        (ConsistencyModel(MLP()), "network is a MLP, not a diffusers UNet2DModel"),
        (
            ConsistencyModel(unet(8, 1, (8, 16)), noise_scale=0.25),
            "0.25 ln σ, but the pipeline will give it 250 ln σ",
        ),
        (DenoiserStudent(Teacher(unet(8, 1, (8, 16)))), "DenoiserStudent is not of the form"),
        (Teacher(unet(8, 1, (8, 16)), noise_scale=250.0), "Teacher is not of the form"),
    ],
)
def test_what_a_pipeline_cannot_hold_is_refused(tmp_path, model, message):
    with pytest.raises(ValueError, match=message):
        export_pipeline(model, tmp_path / "a", recipe=recipe())
    with pytest.raises(ValueError, match="does not say its recipe"):
        export_pipeline(student(), tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_the_card_says_what_is_known(tmp_path):
    plan = recipe(classes=3)
    facts = {"data": {"name": "digits", "train": 9}, "teacher": {"source": "ddpm", "sha256": "0"}}
    header = Header((1, 8, 8), step=7, facts=facts)
    card = model_card("mine", plan, header, {"fd": 12.5}, "apache-2.0")
    assert second_index(plan) == 11 and "timesteps=[11, 0]" in card and "σ = 80, then 0.585" in card
    for line in (
        "license: apache-2.0",
        "| teacher | ddpm |",
        "| data | name digits, train 9 |",
        "| steps | 7 |",
        "| fd | 12.5 |",
    ):
        assert line in card
    code = card.partition("```python\n")[2].partition("```")[0]
    compile(code, "card", "exec")
    plain = model_card("mine", recipe(), Header(()), None, None)
    assert (
        "| teacher | not recorded |" in plain and "Nothing was recorded." in plain and "license:" not in plain
    )


def test_a_student_that_takes_the_guidance_weight_leaves_with_one(tmp_path):
    torch.manual_seed(0)
    free = student(3).network
    model = ConsistencyModel(WeightedUNet(free), noise_scale=250.0).eval()
    torch.nn.init.normal_(model.network.weight.weight)
    with pytest.raises(ValueError, match="fix it: guidance=2.0"):
        export_pipeline(model, tmp_path / "a", recipe=recipe(3))
    with pytest.raises(ValueError, match="guidance = 2, but the student takes no guidance weight"):
        export_pipeline(student(3), tmp_path / "a", recipe=recipe(3), guidance=2.0)
    pipe = ConsistencyModelPipeline.from_pretrained(
        export_pipeline(model, tmp_path / "a", recipe=recipe(3), guidance=2.5)
    )
    at = lambda x, sigma, labels: model(x, sigma, labels=labels, guidance=2.5)  # noqa: E731
    assert (theirs(pipe, None, 3) - ours(at, [80.0], 3)).abs().max() <= 1e-5
    assert isinstance(model.network, WeightedUNet)


def test_uploading_is_left_to_the_hubs_client(tmp_path, monkeypatch):
    import huggingface_hub

    calls = []

    class Api:
        def create_repo(self, name, exist_ok):
            calls.append((name, exist_ok))

        def upload_folder(self, repo_id, folder_path):
            calls.append((repo_id, folder_path))

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    folder = export_pipeline(student(), tmp_path / "a", recipe=recipe(), push_to_hub="me/mine")
    assert calls == [("me/mine", True), ("me/mine", folder)]
    monkeypatch.setattr(Api, "create_repo", lambda *_, **__: 1 / 0)
    with pytest.raises(OSError, match="is written, but could not be uploaded to me/mine: division"):
        export_pipeline(student(), tmp_path / "b", recipe=recipe(), push_to_hub="me/mine")
    assert (tmp_path / "b" / "model_index.json").is_file()


@pytest.mark.parametrize("where", [".", "new", "there"])
def test_the_folder_may_be_the_one_that_we_are_in(tmp_path, monkeypatch, where):
    """It is filled, not replaced; beside it nothing need be writable, and nothing is left."""
    (tmp_path / "here" / "there").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here" / "there" if where == "." else tmp_path / "here")
    before = os.stat(".").st_ino
    folder = export_pipeline(student(), where, recipe=recipe())
    assert os.stat(".").st_ino == before and isinstance(load_teacher(where), ConsistencyModel)
    assert "model_index.json" in os.listdir(folder) and f"# {folder.name}\n" in (
        folder / "README.md"
    ).read_text("utf-8")
    assert not [p for p in tmp_path.rglob("*") if p.name.endswith(".tmp")]


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path, monkeypatch):
    def full(self, folder):
        Path(folder).mkdir()
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(ConsistencyModelPipeline, "save_pretrained", full)
    (tmp_path / "there").mkdir()
    for name in ("new", "there"):
        with pytest.raises(OSError, match=f"cannot write .*{name}: the disk is full; make room, or choose"):
            export_pipeline(student(), tmp_path / name, recipe=recipe())
    assert [p.name for p in tmp_path.rglob("*")] == ["there"]


@pytest.mark.parametrize("text", ['{"name": "a", "price": 3}', "null", '{"name": "a", "rho": "x"}', "{"])
def test_a_recipe_that_is_none_is_refused_by_name(tmp_path, text):
    folder = export_pipeline(student(), tmp_path / "a", recipe=recipe())
    (folder / "recipe.json").write_text(text)
    with pytest.raises(ValueError, match="/a(/recipe.json is damaged| cannot be used: )"):
        load_teacher(folder)


def test_a_rectangle_stays_one_from_the_recipe_to_diffusers(tmp_path, capsys):
    """The card's own lines are run; what they draw is what this package draws from the same noise, in one step and in two."""
    plan = replace(recipe(3), network=Network("unet", 8, 1, (1, 2), classes=3))
    torch.manual_seed(0)
    network = plan.network.build((1, 16, 24))
    torch.nn.init.normal_(network.net.conv_out.weight, std=0.2)
    model = ConsistencyModel(network, noise_scale=250.0).eval()
    folder = export_pipeline(model, tmp_path / "wide", recipe=plan)
    back = load_teacher(folder)
    assert back.header.shape == (1, 16, 24)
    card = (folder / "README.md").read_text(encoding="utf-8")
    code = card.split("```python\n")[1].split("```")[0].replace('"wide"', f'"{folder}"')
    k = second_index(plan)
    for steps in (1, 2):
        if steps == 2:
            code = code.replace("set_timesteps(1)", f"set_timesteps(timesteps=[{k}, 0])")
        names: dict = {}
        torch.manual_seed(5)
        exec(code, names)
        torch.manual_seed(5)
        x = 80 * torch.randn(16, 1, 16, 24)
        levels = [80.0, float(plan.sigmas().double()[k])][:steps]
        wanted = sample_consistency(model, x, levels, labels=torch.zeros(16, dtype=torch.long))
        assert names["images"].shape == (16, 1, 16, 24)
        assert (names["images"] - (wanted / 2 + 0.5).clamp(0, 1)).abs().max() <= 1e-5
    assert wanted.std() > 0.05
