"""A pickle read as data: what it wants made is recorded, and what could do harm or take for ever is refused."""

import pickle
import shutil
import struct
import zipfile
from collections import OrderedDict
from io import BytesIO

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cdedu.networks import bounds
from cdedu.pretrained.pickles import (
    MOST,
    Laid,
    Record,
    Storage,
    check_torch_file,
    open_tensor,
    read_pickle,
    read_storage,
)

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner, inner)
    ),
    max_leaves=20,
)


def read(code: bytes, names=()):
    return read_pickle(BytesIO(code), names)


@given(PLAIN, st.sampled_from([3, 4, 5]))
def test_plain_data_are_what_pickle_reads(value, protocol):
    assert read(pickle.dumps(value, protocol)) == value


def test_what_a_file_wants_made_is_recorded_and_not_made():
    code = pickle.dumps(OrderedDict(a=[1, (2, 3)]), 4)
    made = read(code, {"collections.OrderedDict"})
    assert type(made) is Record and made.name == "collections.OrderedDict" and made == {"a": [1, (2, 3)]}
    with pytest.raises(
        ValueError, match="it names 'collections.OrderedDict', which no such checkpoint needs"
    ):
        read(code, {"builtins.set"})


@pytest.mark.parametrize(
    "code, why",
    [
        (pickle.dumps({(1, 2): 3}, 4), "it has a tuple as a key"),
        (b"\x80\x04" + b"]" * (MOST + 1) + b".", "more than 500,000 instructions"),
        (b"\x80\x04]2.", "the instruction DUP"),
        (b"\x80\x04]Q.", "the instruction BINPERSID"),
        (b"\x80\x04]]R.", "it calls a list, which is no name"),
        (b"\x80\x04]}b.", "it gives a state to a list"),
        (b"\x80\x04K\x01K\x02a.", "it lengthens 1, which is no list"),
        (b"\x80\x04]K\x01K\x02s.", "it sets items of a list"),
        (b"\x80\x04]", "pickle exhausted before seeing STOP"),
        (b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b".", "expected 1152921504606846976 bytes"),
    ],
    ids=range(10),
)
def test_instructions_that_no_weights_need_are_refused(code, why):
    with pytest.raises(ValueError, match=why):
        read(code)


def blob(tensor: torch.Tensor) -> bytes:
    buffer = BytesIO()
    torch.save(tensor.untyped_storage() if tensor.dtype == torch.uint8 else _typed(tensor), buffer, _use_new_zipfile_serialization=False)  # fmt: skip
    return buffer.getvalue()


def _typed(tensor: torch.Tensor):
    return torch.storage.TypedStorage(
        wrap_storage=tensor.untyped_storage(), dtype=tensor.dtype, _internal=True
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_tensor_is_opened_as_it_lies_in_its_storage(dtype):
    numbers = torch.randn(24).to(dtype)
    for size, stride, offset in (((4, 6), (6, 1), 0), ((3, 2), (1, 5), 4), ((), (), 23), ((0, 3), (3, 1), 0)):
        place = Laid(None, offset, size, stride)
        found = open_tensor(place, read_storage(blob(numbers)))
        assert found.dtype == torch.float32 and found.equal(numbers.as_strided(size, stride, offset).float())


@pytest.mark.parametrize(
    "size, stride, offset",
    [((25,), (1,), 0), ((24,), (1,), 1), ((2, 24), (0, 1), 0), ((2,), (24,), 0), ((2**31,), (0,), 0)],
)
def test_a_tensor_lies_within_its_storage_and_repeats_none_of_it(size, stride, offset):
    with pytest.raises(ValueError, match="is out of bounds of its storage of 24"):
        open_tensor(Laid(None, offset, size, stride), Storage(torch.float16, 24, bytes(48)))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda b: b[:-1],
        lambda b: b[:40],
        lambda b: b.replace(struct.pack("<Q", 24), struct.pack("<Q", 25)),
        lambda b: b.replace(b"FloatStorage", b"LongStorage "),
        lambda b: pickle.dumps(1),
        lambda b: [b],
    ],
    ids=["short", "shorter", "another length", "another type", "no storage", "no bytes"],
)
def test_a_storage_that_is_not_as_torch_writes_it_is_refused(spoil):
    with pytest.raises((ValueError, KeyError, IndexError)):
        read_storage(spoil(blob(torch.randn(24))))


def test_a_file_of_torch_is_weights_alone_uncompressed_and_no_more_than_it_holds(tmp_path):
    path = tmp_path / "a.bin"
    torch.save({"w": torch.randn(3, 4), "b": torch.ones(2, dtype=torch.int64)}, path)
    assert check_torch_file(path) == {"w": (3, 4), "b": (2,)}
    with (
        zipfile.ZipFile(path) as whole,
        zipfile.ZipFile(tmp_path / "deflated", "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for name in whole.namelist():
            small.writestr(name, whole.read(name))
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(tmp_path / "short", "w") as short:
        for name in whole.namelist():
            short.writestr(name, whole.read(name)[: 4 if "/data/" in name else None])
    torch.save({"w": torch.device("cpu")}, tmp_path / "other")
    torch.save({"w": [torch.ones(1)]}, tmp_path / "nested")
    shutil.copy(__file__, tmp_path / "text")
    for name, why in {
        "deflated": "it is compressed",
        "short": "not as many as it promises",
        "other": "it names 'torch.device'",
        "nested": "a list stands where a tensor should",
        "text": "not a zip file",
    }.items():
        with pytest.raises(ValueError, match=f"{name} is refused: it is no file of weights alone .*{why}"):
            check_torch_file(tmp_path / name)


@pytest.mark.parametrize("value", [True, 1.0, "1", None, [1], 0, 11, 10**5000], ids=range(8))
def test_a_number_out_of_bounds_is_named_with_its_range(value):
    assert bounds.whole("depth", 3, 1, 10) == 3
    with pytest.raises(ValueError, match="depth = .*, but it must be a whole number from 1 to 10") as error:
        bounds.whole("depth", value, 1, 10)
    assert len(str(error.value)) < 120
    with pytest.raises(ValueError, match="rate = nan, but it must be a number from 0 to 1"):
        bounds.number("rate", float("nan"), 0, 1)
