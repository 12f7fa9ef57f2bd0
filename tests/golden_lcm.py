"""What diffusers' own scripts compute in one step of latent consistency distillation, for test_text.py to compare with.

    python tests/golden_lcm.py <a checkout of diffusers at COMMIT>

writes golden_lcm.json. The body of the training loop is taken out of `examples/consistency_distillation/train_lcm_distill_sd_wds.py` (the whole
network, the guidance weight as an input, a target with an average) and of `train_lcm_distill_lora_sd_wds.py` (an adapter), from the draw of
the time to the step of the optimiser, and is run as it stands, with the script's own helpers, on a tiny UNet. Two things are changed: what it
casts to float32 it casts to float64, and the accelerator is one that does nothing.
"""

import ast
import json
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

COMMIT = "58eb52c080"
SCRIPTS = {"whole": "train_lcm_distill_sd_wds.py", "lora": "train_lcm_distill_lora_sd_wds.py"}
BATCH, LR = 4, 1e-3


def fill(network: nn.Module, seed: int) -> nn.Module:
    """Numbers that no version of torch changes."""
    random = np.random.RandomState(seed)
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(torch.from_numpy(0.2 * random.standard_normal(tuple(p.shape))))
    return network


def unet(**more):
    """A UNet that reads text, of some thousand numbers in float64."""
    from diffusers import UNet2DConditionModel

    net = UNet2DConditionModel(
        sample_size=4, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, attention_head_dim=4, cross_attention_dim=6,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), **more,
    )  # fmt: skip
    return fill(net.double(), 0).eval()


def inputs():
    """Latents, and embeddings of texts, the empty one last."""
    random = np.random.RandomState(1)
    return (
        torch.from_numpy(random.standard_normal((BATCH, 4, 4, 4))),
        torch.from_numpy(random.standard_normal((BATCH + 1, 5, 6))),
    )


def scheduler(prediction="epsilon"):
    from diffusers import DDPMScheduler

    made = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction
    )
    made.alphas_cumprod = torch.cumprod(
        1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0
    )
    return made


def numbers(network):
    """Sum and sum of squares of all weights that are trained, in order."""
    return [
        [float(p.detach().sum()), float(p.detach().square().sum())]
        for p in network.parameters()
        if p.requires_grad
    ]


def run(checkout: Path, which: str, prediction: str) -> dict:
    source = (checkout / "examples/consistency_distillation" / SCRIPTS[which]).read_text(encoding="utf-8")
    tree = ast.parse(source)
    helpers = [n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name in (
        "guidance_scale_embedding", "append_dims", "scalings_for_boundary_conditions", "get_predicted_original_sample", "get_predicted_noise",
        "extract_into_tensor", "DDIMSolver", "update_ema")]  # fmt: skip
    loop = next(
        n
        for n in ast.walk(tree)
        if isinstance(n, ast.With) and ast.unparse(n.items[0].context_expr) == "accelerator.accumulate(unet)"
    )
    first = next(i for i, n in enumerate(loop.body) if ast.unparse(n).startswith("topk ="))
    body = [n for n in loop.body[first:] if not ast.unparse(n).startswith("optimizer.zero_grad")]
    text = "\n".join(ast.unparse(n) for n in body).replace(".float()", ".double()")
    latents, embeddings = inputs()
    more = {"time_cond_proj_dim": 32} if which == "whole" else {}
    teacher, student = unet(), unet(**more)
    noise_scheduler = scheduler(prediction)
    space = {"np": np, "torch": torch, "F": F, "nullcontext": nullcontext}
    exec("\n".join(ast.unparse(n) for n in helpers), space)
    if which == "whole":
        target = unet(**more)
    else:
        from peft import LoraConfig

        student.requires_grad_(False)
        names = [
            name
            for name, m in student.named_modules()
            if isinstance(m, nn.Linear) and name.rsplit(".", 1)[-1] in ("to_q", "to_k", "to_v")
        ]
        student.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=names))
        random = np.random.RandomState(2)
        for p in student.parameters():
            if p.requires_grad:
                p.data = torch.from_numpy(0.2 * random.standard_normal(tuple(p.shape)))
    optimizer = torch.optim.AdamW(
        [p for p in student.parameters() if p.requires_grad], lr=LR, weight_decay=1e-2
    )
    accelerator = SimpleNamespace(
        device=torch.device("cpu"), sync_gradients=True, backward=lambda loss: loss.backward(),
        clip_grad_norm_=lambda parameters, norm: nn.utils.clip_grad_norm_([p for p in parameters if p.grad is not None], norm),
    )  # fmt: skip
    weights = {"w_min": 8.0, "w_max": 8.0} if which == "whole" else {"w_min": 5.0, "w_max": 15.0}
    args = SimpleNamespace(
        num_ddim_timesteps=50,
        timestep_scaling_factor=10.0,
        loss_type="huber",
        huber_c=1e-3,
        max_grad_norm=1.0,
        **weights,
    )
    space |= {
        "latents": latents, "bsz": BATCH, "noise_scheduler": noise_scheduler, "args": args, "unet": student, "teacher_unet": teacher,
        "solver": space["DDIMSolver"](noise_scheduler.alphas_cumprod.numpy()), "accelerator": accelerator, "optimizer": optimizer,
        "alpha_schedule": noise_scheduler.alphas_cumprod.sqrt(), "sigma_schedule": (1 - noise_scheduler.alphas_cumprod).sqrt(),
        "encoded_text": {"prompt_embeds": embeddings[:BATCH]}, "uncond_prompt_embeds": embeddings[-1:].expand(BATCH, -1, -1),
        "weight_dtype": torch.float64, "lr_scheduler": SimpleNamespace(step=lambda: None), "autocast_ctx": nullcontext(), "time_cond_proj_dim": 32,
    }  # fmt: skip
    if which == "whole":
        space["target_unet"] = target
    torch.manual_seed(3)
    torch.set_default_dtype(torch.float32)
    text = text.replace("torch.autocast(accelerator.device.type, dtype=weight_dtype)", "nullcontext()")
    exec(text, space)
    out = {
        "index": space["index"].tolist(), "w": space["w"].flatten().tolist(), "noise": space["noise"].flatten().tolist(),
        "x_prev": [float(v) for v in space["x_prev"].flatten(1).sum(1)], "loss": float(space["loss"]), "after": numbers(student),
    }  # fmt: skip
    if which == "whole":
        space["update_ema"](target.parameters(), student.parameters(), 0.95)
        out["target"] = [[float(p.sum()), float(p.square().sum())] for p in target.parameters()]
        out["embedding"] = [float(v) for v in space["w_embedding"][0]]
    return out


def main():
    checkout = Path(sys.argv[1])
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=checkout, capture_output=True, text=True, check=True
    ).stdout.strip()
    if not head.startswith(COMMIT):
        raise SystemExit(f"{checkout} is at {head}, not at {COMMIT}")
    found = {
        f"{which}/{kind}": run(checkout, which, kind)
        for which in SCRIPTS
        for kind in ("epsilon", "v_prediction")
    }
    facts = {
        "repository": "huggingface/diffusers",
        "commit": head,
        "scripts": SCRIPTS,
        "made by": "python tests/golden_lcm.py",
        "torch": torch.__version__,
    }
    path = Path(__file__).with_suffix(".json")
    path.write_text(json.dumps({"about": facts, **found}) + "\n", encoding="utf-8")
    print(path, path.stat().st_size)


if __name__ == "__main__":
    main()
