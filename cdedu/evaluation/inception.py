"""FID, Inception score, precision and recall by the standard protocol, through torch-fidelity.

50,000 samples against the whole training set, 8-bit images, Inception weights of the original FID code. These are the numbers in the
literature; they need the weights (a 91 MB download) and images of the real, lossless data set.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pickle import UnpicklingError

import torch
from torch.utils.data import Subset

from cdedu.data import Dataset, to_uint8
from cdedu.evaluation.comparison import Sampler, draw
from cdedu.recipes import Recipe
from cdedu.runtime import Runtime


def check(data: Dataset) -> None:
    """Check, before any work, that these data can be scored and torch-fidelity is installed; a ValueError names what is missing."""
    if data.train.dtype != torch.uint8 or data.train.shape[1] != 3:
        raise ValueError(f"Inception scores need 8-bit RGB images, not {data.name}; leave --inception out")
    try:
        import torch_fidelity  # noqa: F401
    except ImportError:
        raise ValueError('Inception scores need torch-fidelity: pip install "cdedu[full]"') from None


@contextmanager
def tensors_only(otherwise: str) -> Iterator[None]:
    """Context in which torch-fidelity reads Inception's weights as tensors only; left to itself, it would run code from their file.

    Args:
        otherwise: for the error message: what the user can do without these weights.

    Raises:
        OSError: if they are neither cached nor downloadable, or their file holds anything but tensors.
    """
    from torch_fidelity import feature_extractor_inceptionv3 as module

    usual = module.load_state_dict_from_url
    module.load_state_dict_from_url = partial(usual, weights_only=True)
    try:
        yield
    except UnpicklingError:
        raise OSError(
            f"the file of Inception's weights in {torch.hub.get_dir()}/checkpoints holds more than tensors; delete it, or {otherwise}"
        ) from None
    except OSError as error:
        raise OSError(
            f"Inception's weights are not cached and could not be downloaded ({error}); {otherwise}"
        ) from None
    finally:
        module.load_state_dict_from_url = usual


def score(
    sampler: Sampler,
    recipe: Recipe,
    data: Dataset,
    runtime: Runtime,
    samples: int = 50_000,
    batch: int = 500,
    seed: int = 0,
) -> dict[str, float]:
    """FID, Inception score, precision and recall of a sampler against the training set. Only the main process returns them.

    Raises:
        ValueError: see :func:`check`.
        OSError: see :func:`tensors_only`.
    """
    check(data)
    from torch_fidelity import calculate_metrics

    shape, generator = tuple(data.train.shape[1:]), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        fake = draw(lambda x, g: to_uint8(sampler(x, g)), recipe, shape, samples, batch, runtime, generator)
    if not runtime.main:
        return {}
    # One by one, as torch-fidelity wants them.
    fake, real = (Subset(x, range(len(x))) for x in (fake, data.train))
    wanted = {"fid": True, "isc": True, "prc": True, "verbose": False}
    with tensors_only("evaluate without --inception"):
        found = calculate_metrics(input1=fake, input2=real, cuda=runtime.device.type == "cuda", **wanted)
    return {"samples": samples, **{key: float(value) for key, value in found.items()}}
