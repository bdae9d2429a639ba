"""The room that shows runs: one HTML page that needs nothing else, and its figures as PNG files."""

from __future__ import annotations

from prag.report.page import ReportFiles, make_report

__all__ = ["ReportFiles", "make_report"]
