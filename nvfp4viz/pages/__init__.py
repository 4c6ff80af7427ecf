"""HTML that opens offline: reports, comparisons, notebooks."""

from .checkpoint import report_checkpoint
from .comparison import compare
from .notebooks import check as check_notebooks
from .notebooks import export
from .report import load_report, report
