"""The room `evaluate`: method by question set, a row each, means with intervals, contrasts."""

from prag.evaluate.conditions import GROUPS, Condition, parse_conditions
from prag.evaluate.evaluation import evaluate
from prag.evaluate.settings import EvalSettings

__all__ = ["GROUPS", "Condition", "EvalSettings", "evaluate", "parse_conditions"]
