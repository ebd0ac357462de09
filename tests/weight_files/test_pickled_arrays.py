"""Arrays out of pickles, by a reader that can run nothing."""

import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch

from lxmert_dist.errors import CheckpointError
from lxmert_dist.weight_files import read_file
from lxmert_dist.weight_files.pickled_arrays import HoldsCodeError, read_arrays

PROTOCOLS = (2, 3, 4, 5)


def some_arrays():
    rng = np.random.default_rng(0)
    return {
        "weight": rng.standard_normal((3, 4)).astype(np.float32),
        "fortran": np.asfortranarray(rng.standard_normal((2, 5, 3))),
        "half": rng.standard_normal(7).astype(np.float16),
        "big_endian": np.arange(6, dtype=">f4").reshape(2, 3),
        "count": np.array(12345, np.int64),
        "flags": np.array([True, False]),
        "strided": rng.standard_normal((6, 6)).astype(np.float32)[::2, 1::3],
        "empty": np.zeros((0, 4), np.float32),
    }


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_reads_what_pickle_wrote(protocol):
    arrays = some_arrays()
    tree = {
        "model": OrderedDict(arrays),
        "__author__": "someone",
        "numbers": [1, -2.5, None, (True,)],
    }
    found = read_arrays(pickle.dumps(tree, protocol))
    assert found["__author__"] == "someone"
    assert found["numbers"] == [1, -2.5, None, (True,)]
    assert found["model"].keys() == arrays.keys()
    for name, array in arrays.items():
        read = found["model"][name]
        np.testing.assert_array_equal(read, array, err_msg=name)
        assert read.dtype == array.dtype.newbyteorder("=")
        assert read.flags.writeable


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_file_of_arrays_becomes_tensors(tmp_path, protocol):
    path = tmp_path / "faster_rcnn.pkl"
    weight = some_arrays()["weight"]
    path.write_bytes(
        pickle.dumps({"model": {"a": weight, "b": weight[0]}, "__author__": "x"}, protocol)
    )
    tensors = read_file(path)
    torch.testing.assert_close(tensors["a"], torch.from_numpy(weight), rtol=0, atol=0)
    torch.testing.assert_close(tensors["b"], torch.from_numpy(weight[0]), rtol=0, atol=0)


def test_reads_a_pickle_of_python_2():
    """Written by hand: Python 2 keeps an array's bytes, and every name, as a string."""
    data = np.array([1.5, -2.0], "<f4").tobytes()
    pickled = b"".join([
        b"\x80\x02}U\x01w",
        b"cnumpy.core.multiarray\n_reconstruct\n",
        b"cnumpy\nndarray\nK\x00\x85U\x01b\x87R",
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R",
        b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89",
        b"U" + bytes([len(data)]) + data + b"tbs.",
    ])  # fmt: skip
    found = read_arrays(pickled)
    np.testing.assert_array_equal(found["w"], np.array([1.5, -2.0], np.float32))


class Calls:
    """A pickle of this calls ``function`` when it is loaded with trust."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Plain:
    pass


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda mark: Calls(os.mkdir, mark), "mkdir"),
        (lambda mark: Calls(eval, f"__import__('os').mkdir({mark!r})"), "eval"),
        (lambda mark: Calls(getattr, "abc", "upper"), "getattr"),
        (lambda mark: Plain(), "Plain|copyreg"),
        (lambda mark: torch.zeros(1), "torch"),
        (lambda mark: np.array([Calls(os.mkdir, mark)], object), "mkdir"),
    ],
)
def test_code_is_refused_by_name_and_not_run(tmp_path, make, name, protocol):
    mark = str(tmp_path / "it ran")
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps({"w": np.zeros(2), "x": make(mark)}, protocol))
    with pytest.raises(HoldsCodeError, match=name):
        read_arrays(path.read_bytes())
    with pytest.raises(CheckpointError, match=r"weights\.pkl is refused: it holds code"):
        read_file(path)
    assert not (tmp_path / "it ran").exists()


@pytest.mark.parametrize(
    "instructions",
    [
        b"\x80\x02cnumpy\nndarray\n)\x81.",  # NEWOBJ
        b"\x80\x02(cnumpy\ndtype\no.",  # OBJ
        b"\x80\x02P0\n.",  # PERSID
        b"\x80\x02\x82\x01.",  # EXT1
        b"\x80\x02}U\x01ac_codecs\nencode\nU\x01xU\x04rot1\x86Rs.",
        b"\x80\x02}(U\x03appU\x01xtR.",  # a call of a tuple
        b"\x80\x02cnumpy\nndarray\n}b.",  # a state for a name
    ],
)
def test_other_ways_to_make_objects_are_refused(instructions):
    with pytest.raises(HoldsCodeError, match=r"NEWOBJ|OBJ|PERSID|EXT1|encode|call|state"):
        read_arrays(instructions)


def test_arrays_of_objects_are_refused():
    with pytest.raises(ValueError, match="only numbers are read"):
        read_arrays(pickle.dumps({"w": np.array([None, "a"], object)}, 4))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_truncation_passes(protocol):
    data = pickle.dumps({"w": some_arrays()["weight"], "count": 3}, protocol)
    for length in range(2, len(data)):
        with pytest.raises(ValueError, match=r"."):
            read_arrays(data[:length])


def test_noise_raises_nothing_but_value_errors():
    data = pickle.dumps({"w": some_arrays()["weight"]}, 4)
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(2000):
        noisy = bytearray(data)
        for at in rng.integers(2, len(data), 3):
            noisy[at] = rng.integers(256)
        try:
            read_arrays(bytes(noisy))
        except ValueError:
            refused += 1
    assert refused > 500


def test_what_is_no_dictionary(tmp_path):
    path = tmp_path / "list.pkl"
    path.write_bytes(pickle.dumps([np.zeros(2)]))
    with pytest.raises(
        CheckpointError, match=r"list\.pkl is truncated or damaged \(it holds a list"
    ):
        read_file(path)
    path.write_bytes(pickle.dumps({"epoch": 3}))
    with pytest.raises(CheckpointError, match="holds no tensors by name"):
        read_file(path)
