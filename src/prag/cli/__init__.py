"""The commands. They parse, call the rooms, and show; no logic is here."""

from prag.cli import bench, library, plan, research, serve
from prag.cli.app import app, main

__all__ = ["app", "bench", "library", "main", "plan", "research", "serve"]
