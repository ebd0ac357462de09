"""Writes tensors as a safetensors file in one pass, with its checksum, without a copy of them."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def write_tensors(file: Path, tensors: Mapping[str, Tensor]) -> tuple[int, str]:
    """Write float32 tensors of the CPU, contiguous, in their order; the file is synced.

    The library's own writer holds the interpreter, which stops the training beside it.

    Returns:
        Bytes and sha256 of the file.

    Raises:
        OSError: the file cannot be written.
    """
    entries, end = {}, 0
    for name, tensor in tensors.items():
        assert tensor.dtype == torch.float32, name
        begin, end = end, end + tensor.nbytes
        entries[name] = {
            "dtype": "F32",
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    digest, size = hashlib.sha256(), 0
    with file.open("wb") as stream:

        def put(block: bytes | memoryview) -> None:
            nonlocal size
            stream.write(block)
            digest.update(block)
            size += len(block)

        put(len(header).to_bytes(8, "little") + header)
        for tensor in tensors.values():
            put(tensor.detach().reshape(-1).numpy().view(np.uint8).data)
        stream.flush()
        os.fsync(stream.fileno())
    return size, digest.hexdigest()
