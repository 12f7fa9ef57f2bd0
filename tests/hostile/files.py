"""Model files that mean harm: each function writes one, and says what must happen when it is loaded.

Run as a script, ``files.py FOLDER SEED ROUNDS``, it loads them all, and as many files with random damage, within limits of time and
memory: a line for each on its output, and the end of the process for one that hangs.
"""

import copy
import faulthandler
import json
import os
import random
import re
import struct
import sys
import time
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as a script

import edm_layout
import torch
from edm_layout import edm_bytes
from openai_layout import OpenaiUNet
from safetensors.torch import save_file
from torch import nn

from cdedu import checkpoints
from cdedu.files import read_tensors
from cdedu.networks import unet
from cdedu.networks.edm import DDPMpp
from cdedu.pretrained import load_teacher
from cdedu.recipes import Network, Recipe
from cdedu.teacher import Teacher

SECONDS, MEGABYTES, HANG = 15.0, 1000, 60


class Case(NamedTuple):
    """A file, and a pattern that its refusal must match; an empty one where it may load."""

    write: Callable[[Path], Path]
    says: str


CASES: dict[str, Case] = {}


def case(says: str) -> Callable[[Callable[[Path], Path]], Callable[[Path], Path]]:
    def known(write: Callable[[Path], Path]) -> Callable[[Path], Path]:
        CASES[write.__name__.replace("_", " ")] = Case(write, says)
        return write

    return known


def add(name: str, says: str, write: Callable[..., Path], *args: Any) -> None:
    CASES[name] = Case(lambda folder: write(folder, *args), says)


# --- checkpoints of this package ---------------------------------------------------------------------

TINY = Recipe("tiny", "two_moons", Network(width=8, depth=1))
PICTURES = Recipe("tiny", "digits", Network("ddpmpp", width=8, depth=1, multipliers=(1,)))


def honest(folder: Path, recipe: Recipe = TINY) -> Path:
    shape = (2,) if recipe is TINY else (1, 8, 8)
    checkpoints.save(folder / "m.safetensors", Teacher(recipe.network.build(shape)), recipe, shape)
    return folder / "m.safetensors"


def with_header(folder: Path, text: str, recipe: Recipe = TINY) -> Path:
    path = honest(folder, recipe)
    save_file(read_tensors(path)[0], path, {"cdedu": text})
    return path


def changed(folder: Path, place: str, value: Any, recipe: Recipe = TINY) -> Path:
    """A header with one value replaced."""
    header = read_tensors(honest(folder, recipe))[1]
    part, *_, key = header, *place.split(".")
    for step in place.split(".")[:-1]:
        part = part[step]
    part[key] = value
    return with_header(folder, json.dumps(header), recipe)


DEEP = "[" * 100_000 + "]" * 100_000
for text, says in {
    "5": "should be a JSON object, but it is '5'",
    "null": "should be a JSON object",
    "[]": "should be a JSON object",
    DEEP: "nested too deeply",
    '{"class": "Teacher", "recipe": ' + '{"a":' * 5000 + "1" + "}" * 5001: "nested too deeply",
    '{"a": ' + "9" * 100_000 + "}": "damaged",
    '{"a": NaN}': "the number NaN, which is not finite",
    '{"a": -1e999}': "the number -1e999, which is not finite",
    '{"a": [' + "[]," * 2_000_000 + "1]}": "more than 4,194,304",
}.items():
    add(f"header {text[:30]}", says, with_header, text)
for place, value, says in (
    ("recipe.network.width", -1, r"network\.width = -1, but it must be at least 1"),
    ("recipe.network.width", 10**9, r"network\.width = 1000000000"),
    ("recipe.network.width", 8.5, r"network\.width = 8\.5"),
    ("recipe.network.width", True, r"network\.width = True"),
    ("recipe.network.width", 8192, r"tensor 'layers.0.weight' has shape \(8, 18\), its network wants"),
    ("recipe.network.depth", 10**6, r"network\.depth = 1000000"),
    ("recipe.network.classes", 10**12, r"network\.classes = 1000000000000"),
    ("recipe.network.multipliers", [1] * 10**6, r"network\.multipliers is a tuple of 1000000"),
    ("recipe.student.points", 10**10, r"student\.points = 10000000000"),
    ("recipe.rho", 1e-300, "cannot be computed with rho"),
    ("recipe", None, "was written by another version"),
    ("recipe", [], "recipe = a list, but it must be an object"),
    ("recipe.network", "unet", "another version"),
    ("recipe.teacher.steps", "many", "another version"),
    ("shape", [], "shape is a tuple of 0"),
    ("shape", [-2], r"shape\[0\] = -2"),
    ("shape", 5, "shape is 5"),
    ("shape", [[2]], r"shape\[0\] = a list"),
    ("sigma_data", "a", "sigma_data = 'a', but it must be a number"),
    ("sigma_data", 10**400, "sigma_data = a number of 1,329 bits"),
    ("noise_scale", None, "noise_scale = None"),
    ("angle", 3, "angle = 3, but it must be true or false"),
    ("class", ["Teacher"], "another version"),
    ("class", "Autoencoder", "another version"),
    ("labels", -1, "labels = -1"),
    ("guidance", ["a"], "guidance = 'a'"),
):
    add(f"{place} = {str(value)[:20]}", says, changed, place, value)
for place, value, says in (
    ("recipe.network.depth", 10**6, r"network\.depth = 1000000"),
    ("recipe.network.depth", 32, "is in only one of file and network"),
    ("recipe.network.width", 2, "another version"),
    ("shape", [2], "takes 3 dimensions"),
    ("shape", [1, 10**9, 8], r"shape\[1\] = 1000000000"),
):
    add(f"picture {place} = {str(value)[:20]}", says, changed, place, value, PICTURES)


@case("holds NaN or infinity")
def weights_that_are_no_numbers(folder: Path) -> Path:
    path = honest(folder)
    tensors, header = read_tensors(path)
    tensors["layers.0.bias"][3] = float("nan")
    save_file(tensors, path, {"cdedu": json.dumps(header)})
    return path


@case("which no weights have")
def complex_weights(folder: Path) -> Path:
    path = honest(folder)
    tensors, header = read_tensors(path)
    save_file(
        tensors | {"layers.0.bias": tensors["layers.0.bias"].to(torch.complex64)},
        path,
        {"cdedu": json.dumps(header)},
    )
    return path


@case("a student over a student|nested too deeply|RecursionError")
def students_over_students(folder: Path) -> Path:
    header = read_tensors(honest(folder))[1]
    inner = {"class": "Teacher"}
    for _ in range(300):
        inner = {"class": "DenoiserStudent", "denoiser": inner, "sigma_min": 0.01}
    return with_header(folder, json.dumps(header | inner))


@case("not a checkpoint of this package, or it is damaged")
def a_header_that_promises_exabytes(folder: Path) -> Path:
    path = folder / "m.safetensors"
    path.write_bytes(struct.pack("<Q", 2**62) + b"{}")
    return path


@case("not a checkpoint of this package, or it is damaged")
def tensors_beyond_the_end(folder: Path) -> Path:
    entry = {"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}
    head = json.dumps({"__metadata__": {"cdedu": "{}"}} | entry).encode()
    (folder / "m.safetensors").write_bytes(struct.pack("<Q", len(head)) + head)
    return folder / "m.safetensors"


@case("is a pipe, not a file")
def a_pipe(folder: Path) -> Path:
    os.mkfifo(folder / "m.safetensors")
    return folder / "m.safetensors"


@case("is not a checkpoint")
def a_pipe_for_a_pickle(folder: Path) -> Path:
    os.mkfifo(folder / "m.pkl")
    return folder / "m.pkl"


@case("is a device, not a file")
def a_link_to_a_device(folder: Path) -> Path:
    (folder / "m.safetensors").symlink_to("/dev/zero")
    return folder / "m.safetensors"


# --- pickles of EDM ----------------------------------------------------------------------------------


class Call:
    """Pickled as a call."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


def edm(
    folder: Path, change: Callable[[Any, Any, Any], Any] = lambda outer, net, options: None, **more: Any
) -> Path:
    """A small network as NVIDIA writes it, changed."""
    sys.modules.update(edm_layout.persistence())
    torch.manual_seed(0)
    net: Any = DDPMpp(8, 3, 8, (1, 2), 1, (4,), 0.1)
    net.edm_name = "SongUNet"
    net._init_kwargs = {"img_resolution": 8, "in_channels": 3, "out_channels": 3, "model_channels": 8}
    net._init_kwargs |= {"channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4]}
    outer: Any = nn.Module()
    outer.model, outer.edm_name, outer._init_kwargs, outer.sigma_data = net, "EDMPrecond", {}, 0.5
    change(outer, net, net._init_kwargs)
    (folder / "m.pkl").write_bytes(edm_bytes({"ema": outer} | more))
    return folder / "m.pkl"


def doubled(leaf: Any = 1, times: int = 45) -> Any:
    """A value of 2⁴⁵ leaves and 45 instructions."""
    for _ in range(times):
        leaf = (leaf, leaf)
    return leaf


def bias(**changes: Any) -> Callable[[Any, Any, Any], None]:
    """One tensor written in another way."""

    def change(outer: Any, net: Any, options: Any) -> None:
        was = net.map_layer1._parameters["bias"].data
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            given = {"storage": was.storage(), "offset": 0, "size": (32,), "stride": (1,)} | changes
        call = Call(torch._utils._rebuild_tensor_v2, *given.values(), False, OrderedDict())
        net.map_layer1._parameters["bias"] = call

    return change


def zipped(folder: Path, where: Path, pickled: bytes, compression: int, numbers: bytes = b"") -> Path:
    """A file of torch, with a pickle of one's own."""
    with zipfile.ZipFile(where, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", numbers)
    return folder


ZEROS = b"\x80\x02" + b"]0" * 100_000_000 + b"."
"""200 MB that are 200 KB when deflated, and do nothing but take time."""


def storage_of(blob: Callable[[Path], bytes]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        made = Call(torch.storage._load_from_bytes, blob(folder))
        return edm(folder, bias(storage=made))

    return write


def deflated(folder: Path) -> bytes:
    zipped(folder, folder / "inner", ZEROS, zipfile.ZIP_DEFLATED)
    return (folder / "inner").read_bytes()


def option(key: str, value: Any) -> Callable[[Any, Any, Any], None]:
    return lambda outer, net, options: options.update({key: value})


LADDER = b"\x80\x04}X\x03\x00\x00\x00ema}K\x01" + b"".join(b"\x94h" + bytes([i]) + b"\x86" for i in range(45))
"""A dictionary, and on top of it a tuple of 2⁴⁵ leaves."""


def raw(folder: Path, code: bytes) -> Path:
    """Instructions by hand, after something that makes the file look like one of EDM's."""
    text = b"_reconstruct_persistent_obj"
    (folder / "m.pkl").write_bytes(b"\x80\x04X" + struct.pack("<I", len(text)) + text + code)
    return folder / "m.pkl"


for name, code, says in (
    ("memo index", b"r\xff\xff\xff\x7f.", "Error"),
    ("memo index, read", b"j\xff\xff\xff\x7f.", "KeyError"),
    ("many instructions", b"]" * 5_000_000 + b".", "more than 500,000 instructions"),
    ("deep tuples", b")" + b"\x85" * 400_000 + b".", "Error|refused"),
    ("a length beyond the end", b"\x8e" + struct.pack("<Q", 2**60) + b"a.", "refused"),
    ("a number of a million digits", b"L" + b"9" * 1_000_000 + b"L\n.", "refused"),
    ("a number of a million bytes", b"\x8b" + struct.pack("<I", 10**6) + b"\x7f" * 10**6 + b".", "refused"),
    ("key doubled", LADDER[2:] + b"K\x01ss.", "a tuple as a key"),
    ("set doubled", LADDER[2:].replace(b"K\x01", b"\x8f(K\x01", 1) + b"\x90s.", "refused"),
    ("name doubled", LADDER[2:] + b"\x94h\x2d\x93.", "it names"),
    ("state of itself", b"}\x94h\x00b.", "refused"),
    ("no mark", b"t.", "refused"),
    ("nothing", b"", "refused"),
):  # fmt: skip
    add(f"pickle: {name}", says, raw, code)

for key, value, says in (
    ("num_blocks", 10**6, r"network\.depth = 1000000"),
    ("num_blocks", -1, r"network\.depth = -1"),
    ("channel_mult", [1] * 10**6, "more than 500,000 instructions"),
    ("channel_mult", doubled(), r"network\.multipliers = a tuple"),
    ("model_channels", 8192, "has shape|is in only one"),
    ("model_channels", 10**4000, "a number of 13,288 bits"),
    ("img_resolution", 2**40, "img_resolution = 1099511627776"),
    ("dropout", float("nan"), "dropout = nan"),
    ("label_dim", 2**40, r"network\.classes = 1099511627776"),
    ("attn_resolutions", doubled(), r"network\.attention = a tuple"),
    ("encoder_type", doubled(), "is none of ddpmpp"),
):
    what = "doubled" if isinstance(value, tuple) else f"{type(value).__name__} {str(value)[:12]}"
    add(f"edm {key} {what}", says, edm, option(key, value))
for name, change, says in (
    (
        "class name doubled",
        lambda o, n, kw: setattr(n, "edm_name", doubled()),
        "network a tuple is not known",
    ),
    ("wrapper doubled", lambda o, n, kw: setattr(o, "edm_name", doubled()), "preconditioning a tuple"),
    ("sigma_data NaN", lambda o, n, kw: setattr(o, "sigma_data", float("nan")), "sigma_data = nan"),
    ("sigma_data text", lambda o, n, kw: setattr(o, "sigma_data", "a"), "sigma_data = 'a'"),
    (
        "weights NaN",
        lambda o, n, kw: nn.init.constant_(n.map_layer1.bias, float("nan")),
        "holds NaN or infinity",
    ),
    ("many numbers from none", bias(size=(2**31,), stride=(0,)), r"has shape \(2147483648,\)"),
    ("one number for many", bias(stride=(0,), storage=Call(torch.storage._load_from_bytes, b"")), "refused"),
    ("beyond its storage", bias(offset=1), "out of bounds of its storage"),
    ("stride below 0", bias(stride=(-1,)), "stride of a tensor = -1"),
    ("shape of text", bias(size=("a",)), "stride of a tensor = 'a'"),
    ("shape doubled", bias(size=(doubled(),)), "stride of a tensor = a tuple"),
    ("no tensor", bias(storage=doubled()), "a tuple stands where"),
):
    add(f"edm {name}", says, edm, change)
for name, kind, facts, says in (
    ("ECT without a boundary", "ECMPrecond", {"sigma_min": 0}, "sigma_min = 0, but"),
    ("ECT with a boundary of nothing", "ECMPrecond", {"sigma_min": float("nan")}, "sigma_min = nan"),
    ("iDDPM of a million steps", "iDDPMPrecond", {"M": 10**6}, "M = 1000000|SongUNet is none of"),
    ("EDM2", "Precond", {}, "network is EDM2's"),
):
    add(
        f"edm {name}",
        says,
        edm,
        lambda o, n, kw, kind=kind, facts=facts: vars(o).update(edm_name=kind, **facts),
    )
CASES["edm deflated storage"] = Case(storage_of(deflated), "refused")
CASES["edm storage of nothing"] = Case(storage_of(lambda folder: b""), "refused")


@case("shorter|fewer|out of bounds|refused")
def edm_one_half_for_many_numbers(folder: Path) -> Path:
    """The stride of 0 on a storage that is too short."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one = torch.zeros(1, dtype=torch.half).storage()
    return edm(folder, bias(storage=one, stride=(0,)))


@case("refused")
def edm_name_of_a_megabyte(folder: Path) -> Path:
    def change(outer: Any, net: Any, options: Any) -> None:
        inner: Any = nn.ModuleDict()
        net._modules["x"] = inner
        for _ in range(40):
            inner._modules["x" * 100_000] = inner = nn.ModuleDict()

    return edm(folder, change)


# --- files of openai ---------------------------------------------------------------------------------


def openai(
    folder: Path, change: Callable[[dict[Any, Any]], Any] = lambda state: None, name: str = "cd_toy8_l2"
) -> Path:
    """A small network in openai's layout, changed."""
    torch.manual_seed(0)
    state = dict(OpenaiUNet(64, (1, 1), attention=(1,)).state_dict())
    change(state)
    torch.save(state, folder / f"{name}.pt")
    return folder / f"{name}.pt"


def put(name: Any, value: Any) -> Callable[[dict[Any, Any]], Any]:
    return lambda state: state.update({name: value})


for name, change, says in (
    ("a call", put("out.0.bias", Call(os.getcwd)), "no file of weights alone"),
    ("nested", put("out.0.bias", {"a": torch.zeros(2)}), "no file of weights alone"),
    ("nothing", dict.clear, "it has 0 blocks in its decoder"),
    ("a million levels", lambda s: s.update({f"output_blocks.{i}.1.in_layers.2.weight": s["out.0.bias"] for i in range(5000)}), "resolutions"),
    ("no dimension", put("input_blocks.1.0.out_layers.3.weight", torch.tensor(1.0)), "IndexError"),
    ("wide", put("input_blocks.1.0.out_layers.3.weight", torch.zeros(64 * 10**4, 1)), "block_out_channels = 640000"),
    ("many labels", put("label_emb.weight", torch.zeros(10**6 + 1, 1)), "num_class_embeds = 1000001"),
    ("labels of another width", put("label_emb.weight", torch.zeros(10, 1)), "'label_emb.weight' has shape"),
    ("one number for many", put("label_emb.weight", torch.zeros(1).expand(10**5, 256)), "no file of weights alone"),
    ("a long name", put("x" * 10**6, torch.zeros(1)), "has no place in its network"),
    ("a number for a name", put(5, torch.zeros(1)), "have no names"),
    ("NaN", put("out.2.bias", torch.full((3,), float("nan"))), "holds NaN or infinity"),
    ("whole numbers", put("out.2.bias", torch.zeros(3, dtype=torch.int64)), "which no weights have"),
):  # fmt: skip
    add(f"openai {name}", says, openai, change)
add("openai without a size", "rename it like that", openai, lambda state: None, "cd_toy")
add("openai of 9,999 pixels", "cannot be halved", openai, lambda state: None, "cd_toy9999")


@case("no file of weights alone")
def openai_deflated(folder: Path) -> Path:
    zipped(folder, folder / "cd_toy8.pt", ZEROS, zipfile.ZIP_DEFLATED)
    return folder / "cd_toy8.pt"


@case("is a pipe, not a file")
def a_pipe_for_openai(folder: Path) -> Path:
    os.mkfifo(folder / "cd_toy8.pt")
    return folder / "cd_toy8.pt"


# --- folders of diffusers ----------------------------------------------------------------------------


def pipeline(folder: Path) -> Path:
    from diffusers import DDPMPipeline, DDPMScheduler

    torch.manual_seed(0)
    DDPMPipeline(unet(8, 1, (8, 8)).net, DDPMScheduler()).save_pretrained(folder / "model")
    return folder / "model"


NETWORK, SCHEDULER = "unet/config.json", "scheduler/scheduler_config.json"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def with_file(folder: Path, name: str, text: str) -> Path:
    made = pipeline(folder)
    (made / name).write_text(text)
    return made


def with_value(folder: Path, name: str, key: str, value: Any) -> Path:
    made = pipeline(folder)
    values = json.loads((made / name).read_text())
    (made / name).write_text(json.dumps(values | {key: value}))
    return made


def with_bin(folder: Path, content: Any, compression: int | None = None, numbers: bytes = b"") -> Path:
    """Weights in torch's own format: saved by it, or a pickle of one's own."""
    made = pipeline(folder)
    path = made / "unet/diffusion_pytorch_model.bin"
    (made / WEIGHTS).unlink()
    if compression is None:
        torch.save(content, path)
    else:
        zipped(folder, path, content, compression, numbers)
    return made


for name in (NETWORK, SCHEDULER):
    short = name.partition("/")[0]
    for text in ("null", "[]", "5", '"a"', "", DEEP, "{", '{"a": NaN}'):
        add(f"{short} is {text[:12]}", "is damaged", with_file, name, text)
    for value in (None, [], {}, 5, "x" * 10**5):
        add(
            f"{short} class {str(value)[:12]}",
            "_class_name|is a xxx|no discrete schedule",
            with_value,
            name,
            "_class_name",
            value,
        )
for key, value, says in (
    ("layers_per_block", 10**6, "layers_per_block = 1000000, but it must be a whole number from 1 to 32"),
    ("layers_per_block", 32, "its weights are 56 tensors|too few|but its network has"),
    ("block_out_channels", [8] * 10**6, "block_out_channels is a list of 1000000"),
    ("block_out_channels", [8192, 8192], "but its network has"),
    ("block_out_channels", None, "block_out_channels is None"),
    ("block_out_channels", [-8, 8], "block_out_channels = -8"),
    ("down_block_types", ["DownBlock2D"] * 7, "down_block_types is a list of 7"),
    ("down_block_types", [5, 5], "down_block_types holds 5"),
    ("down_block_types", ["os.system", "x"], "cannot be read"),
    ("sample_size", 10**9, "sample_size = 1000000000"),
    ("sample_size", [8, -8], "sample_size = -8"),
    ("in_channels", 10**9, "in_channels = 1000000000"),
    ("in_channels", 1024, "but its network has"),
    ("num_class_embeds", 10**9, "num_class_embeds = 1000000000"),
    ("num_class_embeds", 10**6, "but its network has"),
    ("norm_num_groups", 0, "norm_num_groups = 0"),
    ("norm_num_groups", 7, "cannot be read"),
    ("attention_head_dim", "a", "attention_head_dim = 'a'"),
    ("act_fn", "exec", "cannot be read"),
    ("norm_eps", "x", "norm_eps = 'x', but it must be a number from 0 to 1"),
    ("norm_eps", [1e-5], "norm_eps = a list"),
    ("mid_block_scale_factor", "x", "mid_block_scale_factor = 'x'"),
    ("downsample_padding", 1.5, "downsample_padding = 1.5"),
    ("freq_shift", {}, "freq_shift = a dict"),
    ("dropout", "x", "dropout = 'x'"),
    ("time_embedding_dim", 10**9, "time_embedding_dim = 1000000000"),
):
    add(f"unet {key} {str(value)[:12]}", says, with_value, NETWORK, key, value)
for key, value, says in (
    ("num_train_timesteps", 10**12, "num_train_timesteps = 1000000000000"),
    ("num_train_timesteps", "a", "num_train_timesteps = 'a'"),
    ("num_train_timesteps", -5, "num_train_timesteps = -5"),
    ("beta_start", 5, "beta_start = 5"),
    ("beta_start", "a", "beta_start = 'a'"),
    ("beta_end", 0, "must grow|cannot be used|schedule"),
    ("beta_schedule", {}, "cannot be used"),
    ("beta_schedule", "none", "cannot be used"),
    ("trained_betas", [2.0, 3.0], "trained_betas = 2"),
    ("trained_betas", [0.1] * 10**6, "damaged|trained_betas is a list"),
    ("prediction_type", ["epsilon"], "prediction_type"),
    ("steps_offset", 10**12, ""),
):
    add(f"scheduler {key} {str(value)[:12]}", says, with_value, SCHEDULER, key, value)
for text in (
    "null",
    "[]",
    '{"weight_map": null}',
    '{"weight_map": {"a": "/dev/zero"}}',
    '{"weight_map": {"a": ["b"]}}',
    DEEP,
):
    add(f"index {text[:32]}", "cannot be read", with_file, f"{WEIGHTS}.index.json", text)
add(
    "recipe.json of another kind",
    "has no field 'price'",
    with_file,
    "recipe.json",
    '{"name": "a", "data": "toy", "price": 3}',
)
add("recipe.json null", "is damaged", with_file, "recipe.json", "null")
add("bin of a call", "is no file of weights alone", with_bin, {"a": Call(os.getcwd)})
add("bin deflated", "it is compressed", with_bin, ZEROS, zipfile.ZIP_DEFLATED)
add(
    "bin of a memo index",
    "its weights are 0 tensors",
    with_bin,
    b"\x80\x02}r\xff\xff\xff\x7f.",
    zipfile.ZIP_STORED,
)
add("bin of a doubled key", "a tuple as a key", with_bin, LADDER + b"K\x01ss.", zipfile.ZIP_STORED)
add("bin of text", "is no file of weights alone", with_file, "unet/diffusion_pytorch_model.bin", "a")
add("bin of other weights", "numbers, but its network has|too few", with_bin, {"a": torch.zeros(3)})
CASES["bin of text"] = Case(
    lambda folder: _only(with_file(folder, "unet/diffusion_pytorch_model.bin", "a")), "no file of weights"
)
add("weights of zeros", "cannot be read", with_file, WEIGHTS, "\0" * 100_000)


def _only(made: Path) -> Path:
    (made / WEIGHTS).unlink()
    return made


@case("is a pipe, not a file")
def a_pipe_for_weights(folder: Path) -> Path:
    made = _only(pipeline(folder))
    os.mkfifo(made / WEIGHTS)
    return made


@case("is a pipe, not a file")
def a_pipe_for_a_configuration(folder: Path) -> Path:
    made = pipeline(folder)
    (made / NETWORK).unlink()
    os.mkfifo(made / NETWORK)
    return made


@case("holds NaN or infinity")
def folder_with_weights_that_are_no_numbers(folder: Path) -> Path:
    from safetensors.torch import load_file

    made = pipeline(folder)
    tensors = load_file(made / WEIGHTS)
    tensors["conv_in.bias"][0] = float("inf")
    save_file(tensors, made / WEIGHTS, {"format": "pt"})
    return made


# --- random damage -----------------------------------------------------------------------------------

VALUES = [None, True, -1, 0, 1, 2**31, 10**18, -0.5, 1e300, "", "a", [], {}, [1] * 1000, [[]], {"a": 1}]


def spoiled(value: Any, chance: random.Random) -> Any:
    """Plain data with one value in it replaced, left out or doubled."""
    value = copy.deepcopy(value)
    part = value
    while True:
        keys = list(part) if isinstance(part, dict) else range(len(part))
        key = chance.choice(list(keys) or [None])
        if key is None:
            return value
        if isinstance(part[key], dict | list) and part[key] and chance.random() < 0.7:
            part = part[key]
            continue
        if isinstance(part, dict) and chance.random() < 0.2:
            del part[key]
        else:
            part[key] = chance.choice(VALUES)
        return value


def bitten(data: bytes, chance: random.Random) -> bytes:
    """Bytes with some changed, left out or repeated; most often near the beginning, where a file says what it is."""
    data = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 8))):
        at = chance.randrange(min(len(data), chance.choice((64, 1000, len(data)))))
        kind = chance.randrange(4)
        if kind == 0:
            data[at] = chance.randrange(256)
        elif kind == 1:
            data[at] ^= 1 << chance.randrange(8)
        elif kind == 2:
            del data[at : at + chance.choice((1, 3, 100))]
        else:
            data[at:at] = data[at : at + chance.choice((1, 3, 100))]
    return bytes(data)


def damaged(folder: Path, seed: int, rounds: int) -> Iterator[tuple[str, Path]]:
    """One file of each kind after the other, with random damage."""
    chance = random.Random(seed)
    for place in ("toy", "picture", "edm", "openai", "diffusers"):
        (folder / place).mkdir()
    made = pipeline(folder / "diffusers")
    kinds = {
        "toy": honest(folder / "toy"),
        "picture": honest(folder / "picture", PICTURES),
        "edm": edm(folder / "edm"),
        "openai": openai(folder / "openai"),
        "unet": made / NETWORK,
        "scheduler": made / SCHEDULER,
        "weights": made / WEIGHTS,
    }
    whole = {kind: path.read_bytes() for kind, path in kinds.items()}
    for i in range(rounds):
        kind = list(kinds)[i % len(kinds)]
        path, data = kinds[kind], whole[kind]
        if kind in ("unet", "scheduler"):
            path.write_text(json.dumps(spoiled(json.loads(data), chance)))
        elif kind in ("toy", "picture") and chance.random() < 0.7:
            path.write_bytes(data)
            tensors, header = read_tensors(path)
            save_file(tensors, path, {"cdedu": json.dumps(spoiled(header, chance))})
        else:
            path.write_bytes(bitten(data, chance))
        yield f"damage {seed}/{i} {kind}", made if made in path.parents else path
        path.write_bytes(data)


# --- loading them all --------------------------------------------------------------------------------


def outcome(path: Path) -> str:
    """How a file was refused, or nothing if it was loaded."""
    try:
        load_teacher(path)
    except (ValueError, OSError) as error:
        return str(error) or "without a word"
    except BaseException as error:
        return f"ESCAPED as {type(error).__name__}: {error}"
    return ""


def verdict(name: str, path: Path, says: str) -> str:
    """What is wrong with the way in which a file was met; nothing if all is well."""
    for part in Path("/proc/self").glob("clear_refs"):
        part.write_text("5")  # the peak is counted from here
    before, start = memory(), time.process_time()
    said = outcome(path)
    seconds, grown = time.process_time() - start, memory("VmHWM") - before
    if said.startswith("ESCAPED") or "weights_only" in said or "\n" in said or len(said) > 900:
        return said
    if said and path.name not in said:
        return f"does not name the file: {said}"
    if not re.search(says, said) or (says and not said):
        return f"want {says!r}, got {said!r}"
    if seconds > SECONDS or grown > MEGABYTES:
        return f"took {seconds:.1f} s and {grown} MB"
    return ""


def memory(name: str = "VmRSS") -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith(name))


def main(folder: Path, seed: int, rounds: int, words: str = "") -> None:
    import resource

    warnings.simplefilter("error", RuntimeWarning)
    assert not outcome(pipeline(folder)), "the honest folder"  # imports what takes long
    limit = (memory("VmSize") + 2 * MEGABYTES) << 20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    seen, slowest = 0, (0.0, "")
    for i, (name, each) in enumerate(CASES.items()):
        if words in name:
            place = folder / str(i)
            place.mkdir()
            faulthandler.dump_traceback_later(HANG, exit=True)
            path, start = each.write(place), time.process_time()
            print(f"{name}: {verdict(name, path, each.says) or 'well'}", flush=True)
            seen, slowest = seen + 1, max(slowest, (time.process_time() - start, name))
    for name, path in damaged(folder, seed, rounds):
        faulthandler.dump_traceback_later(HANG, exit=True)
        start = time.process_time()
        print(f"{name}: {verdict(name, path, '') or 'well'}", flush=True)
        seen, slowest = seen + 1, max(slowest, (time.process_time() - start, name))
    print(f"end: {seen} files, the slowest {slowest[1]} with {slowest[0]:.2f} s", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:4]), *sys.argv[4:])
