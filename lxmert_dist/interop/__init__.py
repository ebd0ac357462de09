"""Weights in and out: the released LXMERT, Hugging Face and BERT, with a numeric self-check.

The one vocabulary in here is the released code's parameter names; Hugging Face's differ from them
by the prefix of the backbone, ours by the table in ``names.py``.
"""

from lxmert_dist.interop.convert import Request, convert

__all__ = ["Request", "convert"]
