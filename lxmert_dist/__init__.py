"""Distributed pretraining of LXMERT (Tan & Bansal, EMNLP 2019)."""

__version__ = "0.1.0"
