"""The networks that openai published with consistency models (``.pt``), as teachers and students over a ``UNet2DModel``.

Such a file holds the tensors of a UNet, which is guided-diffusion's, and nothing else. Widths, depth, attention, labels and the way
in which the noise level comes in follow from names and shapes. What does not is in openai's scripts, and the same for all of its
files: 64 channels for each head of attention, 32 groups, residual blocks where the resolution changes, σ_d = .5, σ from .002 to 80,
and 250 ln σ for the network. Whether it is a teacher or a student, and for pictures of which size, is only in the name of the file.

Source: Song et al. 2023; github.com/openai/consistency_models, cm/unet.py and scripts/launch.sh.
"""

import re
from pathlib import Path
from typing import Any

import torch

from cdedu.checkpoints import Header
from cdedu.files import check_weights, regular
from cdedu.networks import UNet, bounds, check_size
from cdedu.noise import SIGMA_MAX, SIGMA_MIN
from cdedu.pretrained.diffusers import foreign
from cdedu.pretrained.pickles import check_torch_file
from cdedu.student import ConsistencyModel
from cdedu.teacher import Teacher

Shapes = dict[str, tuple[int, ...]]
HEAD, GROUPS, SCALE = 64, 32, 250.0


def load_openai(path: str | Path) -> Teacher | ConsistencyModel:
    """A teacher (``edm_…``) or a student (``cd_…``, ``ct_…``) in float32 and evaluation mode.

    Its network is the ``UNet2DModel`` of diffusers with the same tensors, so a student of this teacher can be exported as a pipeline.
    A student clips to [−1, 1], as openai samples it. Networks with labels must be given them. ``model.header`` holds shape and number
    of labels, and a recipe for ``checkpoints.save(file, model, model.header.recipe, model.header.shape)`` if it is a teacher.

    Args:
        path: such as ``edm_imagenet64_ema.pt``, ``cd_imagenet64_l2.pt`` or ``ct_bedroom256.pt``. One of openai's training
            (``ema_0.999_600000.pt``) needs such a name first: ``edm_``, ``cd_`` or ``ct_``, what the pictures are and their height.

    Raises:
        ValueError: for a name that does not say what it is, a file that holds anything but tensors, and a network that is another.
    """
    path = regular(path, "file of weights")
    named = re.fullmatch(r"(edm|cd|ct)_[A-Za-z-]+(\d{1,4})(_\w+)?\.pt", path.name)
    if not named:
        raise ValueError(
            f"{path}: a .pt file of openai's consistency models says neither whether it is a teacher or a student nor the size of its "
            "pictures, but its name does, such as edm_imagenet64_ema.pt, cd_imagenet64_l2.pt or ct_bedroom256.pt; rename it like that"
        )
    shapes = check_torch_file(path)
    try:
        config = architecture(shapes, int(named[2]))
        net = _filled(path, config, shapes)
    except Exception as error:  # what is in such a file can be wrong in any way
        why = " ".join(str(error).split())[:300]
        why = why if isinstance(error, ValueError) else f"{type(error).__name__}: {why}"
        raise ValueError(f"{path} is not a network of openai's consistency models: {why}") from None
    classes = config["num_class_embeds"] or 0
    header = Header(
        (config["in_channels"], *[config["sample_size"]] * 2),
        None,
        classes,
        classes,
        facts={"source": path.name},
    )
    model: Teacher | ConsistencyModel
    if named[1] == "edm":
        model = Teacher(UNet(net), noise_scale=SCALE)
        header.recipe = foreign(path.stem, classes, model.sigma_data, SIGMA_MIN, SIGMA_MAX, SCALE)
    else:
        model = ConsistencyModel(UNet(net), noise_scale=SCALE)
        model.clip = 1.0
    model.sigma_max = SIGMA_MAX  # type: ignore[assignment]
    model.header = header  # type: ignore[assignment]
    return model.eval()


def architecture(shapes: Shapes, size: int) -> dict[str, Any]:
    """The configuration of the ``UNet2DModel`` for a network with tensors of these names and shapes.

    Raises:
        ValueError: for a network of another kind, saying what is missing or in its place.
        KeyError: for a tensor that is missing.
    """
    if any(type(name) is not str for name in shapes):
        raise ValueError("its tensors have no names")
    if any(re.search(r"blocks\.\d+\.\d+\.(op|conv)\.", name) for name in shapes):
        raise ValueError(
            "its resolution changes by bare convolutions (resblock_updown = False), but openai's published ones have residual blocks there"
        )
    count = len({name.split(".")[1] for name in shapes if name.startswith("output_blocks.")})
    # A block of the decoder ends with a second residual block where the resolution doubles.
    ups = [n for n in shapes if re.fullmatch(r"output_blocks\.\d+\.[12]\.in_layers\.2\.weight", n)]
    levels = len(ups) + 1
    if not count or count % levels or levels > bounds.LEVELS:
        raise ValueError(
            f"it has {count} blocks in its decoder at {levels} resolutions, which is no UNet of guided-diffusion with as many at each"
        )
    layers = count // levels - 1
    firsts = [f"input_blocks.{1 + level * (layers + 1)}" for level in range(levels)]
    widths = [shapes[f"{first}.0.out_layers.3.weight"][0] for first in firsts]
    attention = [f"{first}.1.qkv.weight" in shapes for first in firsts]
    for first, width, attended in [
        *zip(firsts, widths, attention, strict=True),
        ("middle_block", widths[-1], True),
    ]:
        if width % GROUPS or (attended and width % HEAD):
            raise ValueError(
                f"{first} has {width} channels, but they are normalized in {GROUPS} groups"
                + f" and attend in heads of {HEAD}" * attended
            )
        qkv = shapes.get(f"{first}.1.qkv.weight")
        if qkv is not None and len(qkv) == 3:
            raise ValueError(
                "its attention is guided-diffusion's, which has query, key and value in another order than openai's consistency models"
            )
    check_size(size, size, levels - 1)
    outputs = shapes["input_blocks.1.0.emb_layers.1.weight"][0]
    return {
        "sample_size": size,
        "in_channels": shapes["input_blocks.0.0.weight"][1],
        "out_channels": shapes["out.2.weight"][0],
        "block_out_channels": widths,
        "layers_per_block": layers,
        "down_block_types": ["AttnDownBlock2D" if a else "ResnetDownsampleBlock2D" for a in attention],
        "up_block_types": ["AttnUpBlock2D" if a else "ResnetUpsampleBlock2D" for a in reversed(attention)],
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "resnet_time_scale_shift": "scale_shift" if outputs == 2 * widths[0] else "default",
        "attention_head_dim": HEAD,
        "norm_num_groups": GROUPS,
        "attn_norm_num_groups": GROUPS,
        "num_class_embeds": shapes["label_emb.weight"][0] if "label_emb.weight" in shapes else None,
    }


_PARTS = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2", "class_embedding": "label_emb",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
    "group_norm": "norm", "to_q": "qkv", "to_k": "qkv", "to_v": "qkv", "to_out.0": "proj_out",
}  # fmt: skip
"""What diffusers calls a part of the network, or of a block, and what openai calls it."""


def their_name(ours: str, config: dict[str, Any]) -> str:
    """What openai calls a tensor of the ``UNet2DModel``; the parts of ``qkv`` by its own name.

    Both count the blocks of a side from its start, diffusers within each resolution, openai through all. What changes the resolution
    is the last of a resolution: in the encoder a block of its own, in the decoder the last part of the block before.
    """
    module, _, kind = ours.rpartition(".")
    found = re.fullmatch(
        r"(down|mid|up)_block(?:s\.(\d+))?\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)", module
    )
    if not found:
        return f"{_PARTS[module]}.{kind}"
    side, level, what, i, part = found[1], int(found[2] or 0), found[3], int(found[4]), found[5]
    layers = config["layers_per_block"] + 1
    attended = what == "attentions"
    if side == "mid":
        block = f"middle_block.{1 if attended else 2 * i}"
    elif side == "down":
        i = layers - 1 if what == "downsamplers" else i
        block = f"input_blocks.{1 + level * layers + i}.{int(attended)}"
    elif what == "upsamplers":
        block = f"output_blocks.{(level + 1) * layers - 1}.{1 + config['up_block_types'][level].startswith('Attn')}"
    else:
        block = f"output_blocks.{level * layers + i}.{int(attended)}"
    return f"{block}.{_PARTS[part]}.{kind}"


def _filled(path: Path, config: dict[str, Any], shapes: Shapes) -> torch.nn.Module:
    """The network with the tensors of the file, once all names and shapes are found to fit."""
    from diffusers import UNet2DModel

    bounds.check_unet(config)
    with bounds.without_memory():
        net = UNet2DModel(**config)
    wanted = bounds.shapes_of(net.state_dict())
    names = {ours: their_name(ours, config) for ours in wanted}
    left = shapes.keys() - names.values()
    if left:
        raise ValueError(f"tensor {min(left)!r:.80} has no place in its network")
    for ours, theirs in names.items():
        if theirs not in shapes:
            raise ValueError(f"tensor {theirs!r} is missing")
        rows = 3 if ".qkv." in theirs else 1
        first, *rest = wanted[ours]
        # Attention's matrices are convolutions of size 1 there.
        more = [1, 1] if "attentions" in ours and len(rest) == 1 else []
        if shapes[theirs] != (rows * first, *rest, *more):
            raise ValueError(
                f"tensor {theirs!r} has shape {shapes[theirs]}, its network wants {(rows * first, *rest, *more)}"
            )
    tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    filled = {}
    for ours, theirs in names.items():
        tensor = tensors[theirs]
        if not tensor.is_floating_point():
            raise ValueError(f"tensor {theirs!r} has type {tensor.dtype}, which no weights have")
        if ".qkv." in theirs:
            tensor = tensor.chunk(3)["qkv".index(ours.split("to_")[1][0])]
        filled[ours] = tensor.reshape(wanted[ours]).to(torch.float32, copy=True)
    check_weights(filled)
    net.load_state_dict(filled, assign=True)
    return net
