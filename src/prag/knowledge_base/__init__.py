"""The folder of a knowledge base and its life: add, build, ask, withdraw, verify, export."""

from prag.knowledge_base.augmentations import ImportReport
from prag.knowledge_base.build import BuildReport
from prag.knowledge_base.inspect import Status, VerifyReport
from prag.knowledge_base.knowledge_base import KnowledgeBase

__all__ = [
    "BuildReport",
    "ImportReport",
    "KnowledgeBase",
    "Status",
    "VerifyReport",
]
