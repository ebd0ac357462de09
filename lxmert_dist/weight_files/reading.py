"""Tensors out of files that nobody vouches for. No code of a file is ever run."""

import json
import re
import warnings
from collections.abc import Mapping
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lxmert_dist.errors import CheckpointError, unreadable
from lxmert_dist.weight_files.pickled_arrays import HoldsCodeError, read_arrays

SUFFIXES = (".safetensors", ".pth", ".bin", ".pt", ".pkl")
"""Of the files that :func:`read_file` understands."""

_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_OLD_TORCH = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""What follows the protocol in a file of torch before 1.6."""
_WRAPPERS = ("state_dict", "model", "model_state_dict")
"""Under which some programs keep the tensors."""


def read_file(path: Path) -> dict[str, Tensor]:
    """The tensors of one file, by the names that they have there; floats become float32.

    Raises:
        CheckpointError: the file is missing, truncated, no file of tensors, holds code, or a
            tensor of it has values that are not finite.
    """
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise CheckpointError(unreadable(path, error)) from error
    if path.suffix == ".safetensors":
        tensors = _safetensors(path)
    elif head.startswith(_ZIP) or head[2:].startswith(_OLD_TORCH):
        tensors = _torch(path, is_zip=head.startswith(_ZIP))
    elif head.startswith(_PICKLE):
        tensors = _arrays(path)
    else:
        raise CheckpointError(f"{path} is not a file of weights: {_looks_like(head)}")
    return {name: _checked(path, name, tensor) for name, tensor in tensors.items()}


def read_shards(index: Path) -> dict[str, Tensor]:
    """The tensors of all files that an index names (``*.index.json``); errors as `read_file`."""
    try:
        shards = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is damaged; fetch it again") from error
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise CheckpointError(
                f"{index} names {shard!r}, which is not a file beside it; fetch the whole model"
            )
        tensors |= read_file(index.parent / shard)
    return tensors


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, ValueError, KeyError) as error:
        raise _damage(path, str(error)) from error


def _torch(path: Path, *, is_zip: bool) -> dict[str, Tensor]:
    """A file of ``torch.save``: a zip, or, from before torch 1.6, a row of pickles."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols; the error says all
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except Exception as error:  # a damaged file may raise anything
        code = re.search(r"GLOBAL (\S+)|Unsupported (?:class|operand)", str(error))
        if code:
            raise _refusal(path, code[1].strip("`") if code[1] else "") from error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise _damage(path, reason) from error
    return _by_name(path, found)


def _arrays(path: Path) -> dict[str, Tensor]:
    """A pickle of NumPy arrays, as detectron2 and Caffe2 leave them."""
    try:
        with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as whole:
            found = read_arrays(whole)
    except HoldsCodeError as error:
        raise _refusal(path, error.name) from error
    except ValueError as error:
        raise _damage(path, str(error)) from error
    return _by_name(path, _as_tensors(found))


def _as_tensors(found: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: torch.from_numpy(value)
        if isinstance(value, np.ndarray)
        else _as_tensors(value)
        if isinstance(value, dict)
        else value
        for key, value in found.items()
    }


def _by_name(path: Path, found: Any) -> dict[str, Tensor]:
    for wrapper in _WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
            found = found[wrapper]
    if not _are_tensors(found):
        raise CheckpointError(f"{path} holds no tensors by name; give a state dict")
    return dict(found)


def _refusal(path: Path, code: str) -> CheckpointError:
    what = f" ({code})" if code else ""
    return CheckpointError(
        f"{path} is refused: it holds code{what} beside tensors, and no code of a file is "
        "run; ask its author for safetensors"
    )


def _damage(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{path} is truncated or damaged ({reason}); fetch it again")


def _are_tensors(found: Any) -> bool:
    return (
        isinstance(found, Mapping)
        and bool(found)
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in found.items())
    )


def _looks_like(head: bytes) -> str:
    """What a file is that begins with ``head``."""
    if not head:
        return "it is empty; fetch it again"
    if head.lstrip()[:1] == b"<":
        return "it is a web page, perhaps of a failed download; fetch it again"
    if head.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS; fetch the file itself (git lfs pull)"
    return "it was written neither by safetensors nor by torch.save; name one that was"


def _checked(path: Path, name: str, tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    tensor = tensor.float().contiguous()
    if not torch.isfinite(tensor).all():
        raise CheckpointError(
            f"{path}: {name} has values that are NaN or infinite; give other weights"
        )
    return tensor
