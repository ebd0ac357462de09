"""Tensors by name out of files of other programs; no code of a file is ever run."""

from lxmert_dist.weight_files.reading import SUFFIXES, read_file, read_shards

__all__ = ["SUFFIXES", "read_file", "read_shards"]
