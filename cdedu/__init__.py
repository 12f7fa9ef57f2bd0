"""Consistency distillation, taught and implemented.

Everything is a *denoiser*: a callable ``D(x, sigma, **cond) -> x0`` that guesses clean data from ``x = x0 + sigma * noise``.
A trained teacher is one, an exact Gaussian mixture is one, and a consistency student is one that gets it right in a single call.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Names load on first use, so that `import cdedu` stays fast.
_HOME = {
    "noise": ["LogNormal", "add_noise", "karras_sigmas"],
    "teacher": ["Teacher"],
    "mixture": ["GaussianMixture"],
    "student": ["ConsistencyModel"],
    "solvers": ["euler_step", "heun_step"],
    "losses": ["consistency_training_loss", "denoising_loss", "distillation_loss"],
    "samplers": ["sample_consistency", "sample_ddpm", "sample_dpm_solver", "sample_euler", "sample_heun"],
    "training": ["distill", "train_teacher"],
    "checkpoints": ["load", "save"],
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    # No submodule shares a name with a public function, so modules (`cdedu.noise`) may load on first use too.
    if name in _MODULE_OF:
        return getattr(import_module(f"cdedu.{_MODULE_OF[name]}"), name)
    if name in (*_HOME, "networks", "data", "recipes", "evaluation", "plotting", "records"):
        return import_module(f"cdedu.{name}")
    raise AttributeError(f"module 'cdedu' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_HOME, "__version__"])
