"""Distill and draw with a tiny text-to-image model in half a minute, to see that everything works: `python scripts/bench/tiny_latents.py
[FOLDER]`.

Installs nothing by itself; `--venv FOLDER/env` first makes a fresh environment there, installs this checkout with its extra `text`, and
goes on in it, as on a bare machine. Then: a tiny pipeline in Stable Diffusion's parts, with random weights; a folder of pictures with
captions; twenty steps of `cdedu distill latents --lora 4`; the adapter loaded by diffusers alone. Fails unless diffusers and this package
draw the same pictures. Nothing is downloaded except packages.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXTS = ("red paper", "green paper", "blue paper")
COLORS = ((200, 30, 30), (30, 160, 60), (40, 60, 200))
STEPS, CLOSE = 20, 2e-5


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folder", nargs="?", type=Path, help="a new folder for the results; a temporary one by default"
    )
    parser.add_argument("--venv", type=Path, metavar="FOLDER", help="create an environment there and use it")
    asked = parser.parse_args()
    if asked.venv:
        raise SystemExit(in_new_environment(asked.venv, asked.folder))
    if asked.folder is None:
        with tempfile.TemporaryDirectory() as folder:
            walk(Path(folder) / "tiny")
    elif asked.folder.exists():
        raise SystemExit(f"{asked.folder} is there; choose another folder")
    else:
        walk(asked.folder)


def in_new_environment(where: Path, folder: Path | None) -> int:
    """Install the course into its own environment, and run this script there; returns the exit status."""
    if where.exists():
        raise SystemExit(f"{where} is there; choose another folder for the environment")
    print(f"environment in {where}, with cdedu[text]", flush=True)
    venv.create(where, with_pip=True)
    python = where / ("Scripts" if os.name == "nt" else "bin") / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", f"{ROOT}[text]"], check=True)
    return subprocess.run([python, __file__, *map(str, [folder] if folder else [])]).returncode


def walk(folder: Path) -> None:
    """All stages, with one line each."""
    try:
        import diffusers
        import peft  # noqa: F401
        import torch
        import transformers  # noqa: F401

        from cdedu.pretrained.text_to_image import load_text_to_image
        from cdedu.pretrained.tiny import write_tiny
    except ImportError as error:
        raise SystemExit(f'{error}; first: pip install "cdedu[text]", or give --venv FOLDER') from None
    folder.mkdir(parents=True)
    tiny = write_tiny(folder / "pipeline")
    print(f"1 pipeline   {tiny}")
    data = write_pictures(folder / "pictures")
    print(f"2 pictures   {data}, {len(TEXTS)} captions", flush=True)
    words = ["--teacher", tiny, "--data", data, "--lora", 4, "--steps", STEPS, "--batch", 4, "--lr", 0.01, "--device", "cpu"]  # fmt: skip
    places = [f"--{name}={folder / name}" for name in ("out", "cache", "results")]
    command = [sys.executable, "-m", "cdedu.cli", "distill", "latents", *map(str, words), *places]
    subprocess.run(command, check=True)
    lora = folder / "out" / "lora"
    print(f"3 adapter    {lora}", flush=True)

    model = load_text_to_image(tiny, lora=lora, student=True)
    model.pipeline.read(TEXTS)
    ours = model.pipeline.draw(steps=4, generator=torch.Generator().manual_seed(0))
    teacher = load_text_to_image(tiny, student=True)
    teacher.pipeline.read(TEXTS)
    without = teacher.pipeline.draw(steps=4, generator=torch.Generator().manual_seed(0))

    diffusers.utils.logging.disable_progress_bar()
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(tiny)
    pipe.load_lora_weights(lora)
    pipe.scheduler = diffusers.LCMScheduler.from_pretrained(lora, subfolder="scheduler")
    pipe.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 4, "guidance_scale": 1.0, "output_type": "pt"}
    theirs = 2 * pipe(list(TEXTS), generator=torch.Generator().manual_seed(0), **options).images - 1
    apart, learned = float((ours - theirs).abs().max()), float((ours - without).abs().max())
    print(f"4 diffusers  greatest difference of a pixel {apart:.0e}; without the adapter {learned:.2f}")
    if not apart <= CLOSE:
        raise SystemExit(f"the pictures differ by {apart:.1e}, which is more than {CLOSE:g}")
    if not learned > 100 * CLOSE:
        raise SystemExit("the adapter changes nothing")


def write_pictures(folder: Path) -> Path:
    """Sheets of paper, four of each color, and captions.json."""
    from PIL import Image

    folder.mkdir()
    captions = {}
    for i in range(4 * len(TEXTS)):
        name, kind = f"{i:02d}.png", i % len(TEXTS)
        Image.new("RGB", (32 + i, 40), COLORS[kind]).save(folder / name)
        captions[name] = TEXTS[kind]
    (folder / "captions.json").write_text(json.dumps(captions, indent=1), encoding="utf-8")
    return folder


if __name__ == "__main__":
    main()
