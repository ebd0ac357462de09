"""A run as one page for people: its settings, curves, data and samples."""

from lxmert_dist.report.run import read_run
from lxmert_dist.report.write import write_report

__all__ = ["read_run", "write_report"]
