"""Parametric RAG: give a language model a library it has read."""

__version__ = "0.1.0"
