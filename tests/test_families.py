"""README's table of families: each row loads, distils and leaves, as it says."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import cdedu
from cdedu import checkpoints
from cdedu.adapters import DiffusersDenoiser, Flow
from cdedu.data.dataset import Dataset
from cdedu.methods.latent import LatentConsistencyModel
from cdedu.pretrained import export_onnx, export_pipeline, load_teacher
from cdedu.recipes import Network, Recipe, StudentStage
from cdedu.student import ConsistencyModel
from cdedu.teacher import Teacher
from cdedu.training import distill

ROOT = Path(__file__).resolve().parents[1]
STAGE = StudentStage(steps=2, batch=4, points=5)


def table() -> dict[str, list[str]]:
    """Family → the row's other cells."""
    text = (
        (ROOT / "README.md")
        .read_text(encoding="utf-8")
        .partition("## Your own model")[2]
        .partition("\n## ")[0]
    )
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    return {row[0]: row[1:] for row in rows[2:]}


def pixels(channels: int = 1, size: int = 8) -> Dataset:
    x = torch.randn(8, channels, size, size, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    return Dataset("random", x, x[:2])


def ddpm(folder: Path) -> None:
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    net = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, add_attention=False,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip
    DDPMPipeline(net, DDPMScheduler()).save_pretrained(folder / "ddpm")
    teacher = load_teacher(folder / "ddpm")
    assert isinstance(teacher, DiffusersDenoiser)
    recipe = Recipe(
        "x",
        "random",
        network=Network("unet", width=8, depth=1, multipliers=(1, 2)),
        student=STAGE,
        noise_scale=250.0,
    )
    *_, state = distill(
        recipe,
        teacher,
        pixels(),
        student=cdedu.training.new_student(cdedu.training.within(recipe, teacher), pixels()),
    )
    recipe = cdedu.training.within(recipe, teacher)
    export_pipeline(state.result, folder / "pipe", recipe=recipe)
    assert isinstance(load_teacher(folder / "pipe"), ConsistencyModel)


def edm(folder: Path) -> None:
    recipe = Recipe(
        "x", "random", network=Network("ddpmpp", width=8, depth=1, multipliers=(1, 2)), student=STAGE
    )
    teacher = Teacher(recipe.network.build((1, 8, 8)))
    checkpoints.save(folder / "teacher.safetensors", teacher, recipe, (1, 8, 8))
    *_, state = distill(recipe, load_teacher(folder / "teacher.safetensors"), pixels())
    export_onnx(state.result, folder / "student.onnx", shape=(1, 8, 8))
    assert (folder / "student.onnx").stat().st_size > 1000


def consistency(folder: Path) -> None:
    ddpm(folder)
    student = load_teacher(folder / "pipe")
    recipe = student.header.recipe
    checkpoints.save(folder / "s.safetensors", student, recipe, (1, 8, 8))
    export_pipeline(checkpoints.load(folder / "s.safetensors"), folder / "again", recipe=recipe)
    x = 80 * torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(load_teacher(folder / "again")(x, 80.0), student(x, 80.0))


def text(kind: str, whole: bool = False) -> Callable[[Path], None]:
    """A tiny pipeline's adapter, or whole student, written and read again."""

    def check(folder: Path) -> None:
        pytest.importorskip("transformers")
        pytest.importorskip("peft")
        from cdedu.methods.text import TextStage, distill_text
        from cdedu.pretrained.text_export import export_text
        from cdedu.pretrained.text_to_image import load_text_to_image
        from cdedu.pretrained.tiny import write_tiny

        source = write_tiny(folder / "teacher", kind)
        teacher = load_teacher(source)
        assert isinstance(teacher, Flow if kind in ("sd3", "flux") else DiffusersDenoiser)
        teacher.pipeline.read(["a cat"])
        x = torch.randn(4, teacher.header.shape[0], 4, 4)
        data = Dataset("random", x, x[:2], torch.zeros(4, dtype=torch.long), torch.zeros(2, dtype=torch.long))
        stage = TextStage(
            lora=0 if whole else 2, steps=2, batch=2, points=10, guidance=(2.0, 4.0), input=whole
        )
        *_, state = distill_text(teacher, data, stage)
        out = export_text(teacher, state.result, folder / "student", stage, source="x")
        back = load_teacher(out) if whole else load_text_to_image(source, lora=out, student=True)
        assert isinstance(back, LatentConsistencyModel)
        back.pipeline.read(["a cat"])
        options = {
            "labels": torch.zeros(1, dtype=torch.long),
            "steps": 1,
            "size": (4, 4),
            "guidance": 3.0 if whole else None,
        }
        mine = teacher.pipeline.draw(
            model=state.result, generator=torch.Generator().manual_seed(0), **options
        )
        torch.testing.assert_close(
            back.pipeline.draw(generator=torch.Generator().manual_seed(0), **options), mine, rtol=0, atol=2e-5
        )

    return check


def captioned(folder: Path) -> None:
    pytest.importorskip("transformers")
    from cdedu.latents import score_canvases
    from cdedu.pretrained import locate
    from cdedu.pretrained.text_to_image import load_text_to_image

    student = load_text_to_image(locate("captioned-teacher"), lora=locate("captioned-lora"), student=True)
    assert isinstance(student, LatentConsistencyModel)
    row = score_canvases(student, 2, None, each=1, seeds=1)
    assert row["place"]["median"] > 0.8  # one in four by chance


FAMILIES: dict[str, Callable[[Path], None]] = {
    "DDPM": ddpm, "EDM": edm, "consistency models": consistency, "captioned digits": captioned, "Stable Diffusion 1, 2": text("sd"),
    "SDXL": text("sdxl"), "latent consistency models": text("sd", whole=True), "Stable Diffusion 3": text("sd3"), "FLUX": text("flux"),
}  # fmt: skip


def test_every_row_is_tried():
    assert table().keys() == FAMILIES.keys()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_loads_distils_and_leaves(family, tmp_path):
    FAMILIES[family](tmp_path)


def test_what_is_called_measured_has_a_record():
    for family, (*_, tried) in table().items():
        records = re.findall(r"\((results/[\w.-]+)\)", tried)
        assert bool(records) == ("measured" in tried), family
        for record in records:
            assert json.loads((ROOT / record).read_text(encoding="utf-8"))["metrics"], family


def test_other_people_s_files_are_tested_where_they_are_read():
    """The kinds of files that the table names have their own tests."""
    named = {
        "checkpoint-N": "test_pretrained_diffusers.py",
        ".pkl": "test_pretrained_edm.py",
        ".pt": "test_pretrained_openai.py",
    }
    cells = " ".join(row[0] for row in table().values())
    for word, file in named.items():
        assert word in cells and (ROOT / "tests" / file).is_file()
