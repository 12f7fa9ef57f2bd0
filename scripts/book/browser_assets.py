"""What the generator in the page needs: `python scripts/book/browser_assets.py` writes book/_static/live, which git does not keep.

- the digits teacher and student as ONNX, in float32 (with half-precision weights the teacher's walk is off by .009);
- a recording of both, for browsers that cannot run them;
- reference noise and samples, to which the tests compare the browser's;
- a manifest with the size and SHA-256 of every file that the page fetches;
- the same files as one script, `disk.js`, for a page opened from disk, which may fetch nothing.

The same weights give the same bytes, so `--if-needed`, as `make book` calls it, does nothing where files and weights are those of
the manifest. The runtime is vendored anew, from the npm registry, by `--vendor` (needs npm).
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from cdedu.files import replacing

if TYPE_CHECKING:
    from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
STATIC, WEIGHTS = ROOT / "book" / "_static", ROOT / "cdedu" / "weights"
LIVE, VENDOR = STATIC / "live", STATIC / "vendor" / "onnxruntime-web"
RUNTIME = "1.30.0"
SCRIPT, WASM = "ort.wasm.bundle.min.js", "ort-wasm-simd-threaded.wasm.gzip"
COLUMNS = 4  # the page shows 4 × 4 digits


def main() -> None:
    """Write every file of book/_static/live that is not written by hand."""
    if "--vendor" in sys.argv:
        vendor()
    if "--if-needed" in sys.argv and up_to_date():
        return
    import torch

    import cdedu
    from cdedu.pretrained import export_onnx
    from cdedu.recipes import recipes

    torch.set_num_threads(1)
    student, teacher = cdedu.load("digits-student"), cdedu.load("digits-teacher")
    for name, model in (("student", student), ("teacher", teacher)):
        print(f"{name}.onnx: error {export_onnx(model, LIVE / f'{name}.onnx'):.1e}")

    recipe, count = recipes["digits"], COLUMNS**2
    sigmas = recipe.sigmas(18)
    noise = recipe.sigma_max * torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    states: list[tuple[Tensor, float]] = []
    walked = cdedu.sample_heun(teacher, noise, sigmas, callback=lambda x, s: states.append((x, s)))
    jumped = cdedu.sample_consistency(student, noise)
    write_recording([seen(x, sigma) for x, sigma in states] + [jumped])
    reference = {
        "noise": noise,
        "sigmas": sigmas,
        "student": jumped,
        "teacher": walked,
    }
    write("reference.json", to_json({name: round_all(value) for name, value in reference.items()}))

    hashes = json.loads((WEIGHTS / "hashes.json").read_text(encoding="utf-8"))
    files = {
        "runtime": f"../vendor/onnxruntime-web/{SCRIPT}",
        "wasm": f"../vendor/onnxruntime-web/{WASM}",
        "student": "student.onnx",
        "teacher": "teacher.onnx",
        "frames": "frames.png",
    }
    manifest: dict[str, Any] = {
        "weights": {name: hashes[name] for name in ("digits-student", "digits-teacher")},
        "frames": len(states),
        "assets": {key: describe(name) for key, name in files.items()},
    }
    write("manifest.json", to_json(manifest))
    write("disk.js", for_disk(manifest["assets"]))
    total = sum(asset["bytes"] for asset in manifest["assets"].values())
    print(f"{total / 1e6:.1f} MB in all")


def up_to_date() -> bool:
    """Whether every file is that of the manifest, and the manifest that of the weights; without loading a network."""
    try:
        manifest = json.loads((LIVE / "manifest.json").read_text(encoding="utf-8"))
        hashes = json.loads((WEIGHTS / "hashes.json").read_text(encoding="utf-8"))
        whole = all(describe(asset["file"]) == asset for asset in manifest["assets"].values())
        return (
            whole
            and all(hashes[n] == h for n, h in manifest["weights"].items())
            and (LIVE / "reference.json").is_file()
            and (LIVE / "disk.js").read_bytes() == for_disk(manifest["assets"])
        )
    except (OSError, KeyError, ValueError):
        return False


def seen(x: Tensor, sigma: float) -> Tensor:
    """Noisy pictures as the page shows them: scaled to the contrast of data."""
    return x * 0.5 / (sigma**2 + 0.25) ** 0.5 if sigma else x


def write_recording(frames: list[Tensor]) -> None:
    """Frames below one another, the student's samples last; black ink, as strong as it is opaque."""
    side = 9 * COLUMNS - 1
    sheet = np.zeros((side * len(frames), side, 2), np.uint8)
    for i, x in enumerate(frames):
        ink = ((x.clamp(-1, 1) + 1) * 127.5).round().byte().numpy()
        for j, image in enumerate(ink[:, 0]):
            top, left = i * side + j // COLUMNS * 9, j % COLUMNS * 9
            sheet[top : top + 8, left : left + 8, 1] = image
    with tempfile.TemporaryFile() as file:
        Image.fromarray(sheet, "LA").save(file, "PNG", optimize=True)
        file.seek(0)
        write("frames.png", file.read())


def vendor() -> None:
    """onnxruntime-web from npm: its smallest script, and its WebAssembly compressed (14 MB would be too much for git)."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            ["npm", "pack", "--silent", f"onnxruntime-web@{RUNTIME}"],
            cwd=folder,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        archive = next(Path(folder).glob("*.tgz"))
        subprocess.run(["tar", "xzf", archive.name], cwd=folder, check=True)
        dist = Path(folder) / "package" / "dist"
        script = (dist / SCRIPT.replace(".js", ".mjs")).read_bytes()
        wasm = (dist / WASM.removesuffix(".gzip")).read_bytes()
    # Named .js, since some hosts serve .mjs as a type that browsers refuse; .gzip, since some declare .gz as an encoding.
    write(VENDOR / SCRIPT, script)
    write(VENDOR / WASM, gzip.compress(wasm, 9, mtime=0))


def describe(name: str) -> dict[str, Any]:
    data = (LIVE / name).read_bytes()
    return {"file": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def for_disk(assets: dict[str, dict[str, Any]]) -> bytes:
    """A script that assigns what networks.js would fetch, in base64."""
    wanted = {key: asset for key, asset in assets.items() if key != "frames"}
    files = {
        key: base64.b64encode((LIVE / asset["file"]).read_bytes()).decode() for key, asset in wanted.items()
    }
    return f"window.liveDisk = {json.dumps({'assets': wanted, 'files': files})};\n".encode()


def round_all(x: Tensor) -> list[float]:
    return [float(f"{value:.7g}") for value in x.flatten().tolist()]


def to_json(value: Any) -> bytes:
    return (json.dumps(value, indent=1 if "assets" in value else None) + "\n").encode()


def write(name: str | Path, data: bytes) -> None:
    """Into book/_static/live, under a temporary name first."""
    with replacing(LIVE / name) as temporary:
        temporary.write_bytes(data)


if __name__ == "__main__":
    main()
