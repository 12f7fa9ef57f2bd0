"""The students of the captioned teacher: `python scripts/weights/captioned_students.py [--folder F]`. Writes `results/captioned-students.json`.

By `cdedu distill latents`: an adapter (LoRA), which comes with the course as `captioned-lora`, and a whole network. Both are scored beside
their teacher by what the referee reads in their pictures. Takes half an hour on one core. Finished parts stay in the folder and in the
record; if restarted, the script continues from there.
"""

import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from cdedu.checkpoints import WEIGHTS, sha256
from cdedu.latents import score_canvases
from cdedu.networks.lora import ADAPTER
from cdedu.pretrained.text_to_image import load_text_to_image
from scripts.studies.bench import Bench, arguments

TEACHER = "captioned-teacher"
GUIDANCE = 4
SHARED = {"steps": 1200, "batch": 64, "guidance": GUIDANCE, "ema": 0.99}
STUDENTS: dict[str, dict[str, Any]] = {
    "lora": {"lora": 16, "lr": 0.001, **SHARED},
    "whole": {"lora": 0, "lr": 0.0005, "target_rate": 0.95, **SHARED},
}
STEPS, TEACHER_STEPS = (1, 2, 4), (1, 2, 4, 10, 50)
MEASURE = {"each": 2, "seeds": 5}


def distil(name: str, folder: Path) -> dict[str, Any]:
    """The student in the folder, by the command line; what its record says."""
    out, records = folder / f"cap-{name}", folder / "caprec"
    done = out / ("lora" if name == "lora" else "pipeline")
    if not done.exists():
        options = [
            f"--{key.replace('_', '-')}={value}" for key, value in STUDENTS[name].items() if key != "guidance"
        ]
        words = [
            "distill",
            "latents",
            "--teacher",
            TEACHER,
            "--data",
            "canvases",
            "--guidance",
            str(GUIDANCE),
            *options,
        ]
        words += ["--device", "cpu", "--precision", "fp32", "--license", "cc-by-4.0"]
        words += ["--cache", str(folder / "capcache"), "--out", str(out), "--results", str(records)]
        subprocess.run(
            [
                sys.executable,
                "-m",
                "cdedu.cli",
                *words,
                *["--resume"] * (out / "student.state.safetensors").exists(),
            ],
            check=True,
        )
    found = [
        json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(records.glob("latents-student-*.json"))
    ]
    record = next(r for r in reversed(found) if bool(r["stage"]["lora"]) == (name == "lora"))
    return {key: record[key] for key in ("stage", "seconds", "commit", "date")} | {
        "loss": record["metrics"]["loss"]
    }


def ship(folder: Path) -> Path:
    """The adapter in half precision, with scheduler and card, among the course's weights."""
    path = WEIGHTS / "captioned-lora"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(folder / "cap-lora" / "lora", path)
    half = {name: t.half() for name, t in load_file(path / ADAPTER).items()}
    save_file(half, path / ADAPTER)
    os.chmod(path / ADAPTER, 0o644)
    return path


def score(
    source: str, steps: int, guidance: float | None, lora: Path | None = None, student: bool = True
) -> dict[str, Any]:
    model = load_text_to_image(WEIGHTS / TEACHER if source == TEACHER else source, lora=lora, student=student)
    return score_canvases(model, steps, guidance, **MEASURE)


def main() -> None:
    asked = arguments(
        __doc__, folder={"type": Path, "default": Path("runs/captioned"), "help": "folder for finished parts"}
    )
    asked.folder.mkdir(parents=True, exist_ok=True)
    settings = {"students": STUDENTS, "measure": MEASURE, "steps": STEPS, "teacher_steps": TEACHER_STEPS}
    teacher = sha256(WEIGHTS / TEACHER / "unet" / "diffusion_pytorch_model.safetensors")
    study = Bench(
        "captioned-students",
        __file__,
        asked,
        settings=settings,
        weights={TEACHER: teacher},
        data={"name": "canvases"},
    )
    out: dict[str, Any] = study.metrics
    for k in TEACHER_STEPS:
        for kind, weight in (("guided", GUIDANCE), ("unguided", None)):
            row = study.run(f"teacher/{kind}/{k}", partial(score, TEACHER, k, weight, student=False))
            out.setdefault("teacher", {}).setdefault(kind, {})[str(k)] = row
            study.write(out)
    for name in STUDENTS:
        study.run(f"{name}/training", partial(distil, name, asked.folder))
        lora = ship(asked.folder) if name == "lora" else None
        for k in STEPS:
            source = TEACHER if lora else str(asked.folder / "cap-whole" / "pipeline")
            row = study.run(f"{name}/{k}", partial(score, source, k, None, lora))
            out.setdefault(name, {"training": study.runs[f"{name}/training"]})[str(k)] = row
            print(
                name,
                k,
                f"all four right {row['all']['median']:.0%}, distance {row['fd']['median']:.0f}",
                flush=True,
            )
            study.write(out)


if __name__ == "__main__":
    main()
