"""Tables and pictures of a run: what its JSON lines say, per data source.

``runs`` reads run directories, ``summary`` condenses them, ``output`` writes ``summary.json``,
``table`` prints it and ``picture`` draws it. ``python -m eqssl_speech.report OUT`` does all of it.
"""

from __future__ import annotations

from eqssl_speech.report.output import write_summary as write_summary
from eqssl_speech.report.runs import RunRecord as RunRecord
from eqssl_speech.report.runs import find_runs as find_runs
from eqssl_speech.report.runs import read_run as read_run
from eqssl_speech.report.summary import Summary as Summary
from eqssl_speech.report.summary import summarize as summarize
from eqssl_speech.report.table import build_tables as build_tables
from eqssl_speech.report.table import verdict as verdict
