"""What the generator in the page needs: `python scripts/book/browser_assets.py` writes book/_static/live, which git does not keep.

- the digits teacher and student as ONNX, in float32 (with half-precision weights the teacher's walk is off by .009);
- a recording of both, for browsers that cannot run them;
- reference noise and samples, to which the tests compare the browser's;
- where both are among the weights, teacher and student of small photographs, by class: the student of a guided teacher, and the
  teacher with this guidance, which asks its network twice an evaluation; with weights in half precision as they are shipped;
- a manifest with the size and SHA-256 of every file that the page fetches, and of what networks there are sets;
- the same files as scripts, for a page opened from disk, which may fetch nothing: `disk.js`, and `disk-photos.js`.

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
ROLES = ("student", "teacher")
DIGITS, PHOTOS = ("digits-student", "digits-teacher"), ("cifar10-small-guided", "cifar10-small-teacher")
COLUMNS = 4  # the page shows 4 × 4 digits


def main() -> None:
    """Write every file of book/_static/live that is not written by hand."""
    if "--vendor" in sys.argv:
        vendor()
    if "--if-needed" in sys.argv and up_to_date():
        return
    import torch

    torch.set_num_threads(1)
    hashes = json.loads((WEIGHTS / "hashes.json").read_text(encoding="utf-8"))
    sets, frames = {"digits": write_digits()}, write_reference()
    if PHOTOS[0] in wanted_weights(hashes):
        import cdedu

        sets["photos"] = write_photos(*map(cdedu.load, PHOTOS))
    assets = write_manifest(sets, {"weights": wanted_weights(hashes), "frames": frames})
    kept = {asset["file"] for asset in assets.values()} | {f"disk-{name}.js" for name in sets}
    for file in (
        *LIVE.glob("*.onnx"),
        *LIVE.glob("disk-*.js"),
    ):  # of networks that the book does not have any more
        if file.name not in kept:
            file.unlink()
    print(f"{sum(asset['bytes'] for asset in assets.values()) / 1e6:.1f} MB in all")


def wanted_weights(hashes: dict[str, str]) -> dict[str, str]:
    """The weights that the page's networks are made of, with their hashes; photographs need both of theirs."""
    photos = PHOTOS if all(name in hashes for name in PHOTOS) else ()
    return {name: hashes[name] for name in (*DIGITS, *photos)}


def write_digits() -> dict[str, Any]:
    """Both networks; what the manifest says of them."""
    import cdedu
    from cdedu.pretrained import export_onnx

    for role, name in zip(ROLES, DIGITS, strict=True):
        print(f"{role}.onnx: error {export_onnx(cdedu.load(name), LIVE / f'{role}.onnx'):.1e}")
    return {"shape": [1, 8, 8], **{role: role for role in ROLES}}


def write_photos(student: Any, teacher: Any) -> dict[str, Any]:
    """As :func:`write_digits`, of two networks with classes, of which the teacher is guided as the student's was."""
    from cdedu.methods.guidance import guided_for
    from cdedu.pretrained import export_onnx

    header = student.header
    for role, model in zip(ROLES, (student, guided_for(student, teacher)), strict=True):
        name = f"photos-{role}"
        error = export_onnx(
            model, LIVE / f"{name}.onnx", shape=header.shape, classes=header.classes, half=True
        )
        print(f"{name}.onnx: error {error:.1e}")
    return {
        "shape": list(header.shape),
        "classes": list(header.class_names),
        "guidance": header.guidance[0],
        **{role: f"photos-{role}" for role in ROLES},
    }


def write_reference() -> int:
    """Noise and what both digits' networks make of it, and the recording; how many frames it has."""
    import torch

    import cdedu
    from cdedu.recipes import recipes

    student, teacher = map(cdedu.load, DIGITS)
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
    return len(states)


def write_manifest(sets: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """The manifest and the scripts for a page from disk, of networks that are written already; what there is to fetch."""
    files = {
        "runtime": f"../vendor/onnxruntime-web/{SCRIPT}",
        "wasm": f"../vendor/onnxruntime-web/{WASM}",
        **{one[role]: f"{one[role]}.onnx" for one in sets.values() for role in ROLES},
        "frames": "frames.png",
    }
    assets = {key: describe(name) for key, name in files.items()}
    manifest = {**more, "sets": sets, "assets": assets}
    write("manifest.json", to_json(manifest))
    for name, data in disk_scripts(manifest).items():
        write(name, data)
    return assets


def up_to_date() -> bool:
    """Whether every file is that of the manifest, and the manifest that of the weights; without loading a network."""
    try:
        manifest = json.loads((LIVE / "manifest.json").read_text(encoding="utf-8"))
        hashes = json.loads((WEIGHTS / "hashes.json").read_text(encoding="utf-8"))
        whole = all(describe(asset["file"]) == asset for asset in manifest["assets"].values())
        return (
            whole
            and manifest["weights"] == wanted_weights(hashes)
            and (LIVE / "reference.json").is_file()
            and all((LIVE / name).read_bytes() == data for name, data in disk_scripts(manifest).items())
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


def disk_scripts(manifest: dict[str, Any]) -> dict[str, bytes]:
    """By its name, each script that assigns what networks.js would fetch, in base64: runtime and digits in one, other sets in others."""
    scripts = {}
    for name, one in manifest["sets"].items():
        keys = [one[role] for role in ROLES]
        if name == "digits":
            keys = ["runtime", "wasm", *keys]
        assets = {key: manifest["assets"][key] for key in keys}
        files = {key: base64.b64encode((LIVE / assets[key]["file"]).read_bytes()).decode() for key in keys}
        data = json.dumps({"assets": assets, "sets": {name: one}, "files": files})
        scripts["disk.js" if name == "digits" else f"disk-{name}.js"] = (
            f"window.liveDisk = {data};\n".encode()
        )
    return scripts


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
