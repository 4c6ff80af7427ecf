"""HTML that opens offline: reports, comparisons, notebooks."""

from .comparison import compare
from .notebooks import export
from .report import load_report, report
