"""The commands. They parse, call the rooms, and show; no logic is here."""

from prag.cli import adapters, bench, library, plan, research, serve
from prag.cli.app import app, main

__all__ = ["adapters", "app", "bench", "library", "main", "plan", "research", "serve"]
