"""`prag plan`: what a corpus costs before it is encoded, and after how many questions that pays."""

from prag.plan.costs import Costs, Use, break_even, costs_of
from prag.plan.hardware import Figure, Hardware, hardware_named, read_hardware
from prag.plan.planning import Plan, plan
from prag.plan.shape import Adapted, Shape, adapted_of, shape_of, skeleton
from prag.plan.sizes import Sizes, sizes_of
from prag.plan.workload import Workload, workload

__all__ = [
    "Adapted",
    "Costs",
    "Figure",
    "Hardware",
    "Plan",
    "Shape",
    "Sizes",
    "Use",
    "Workload",
    "adapted_of",
    "break_even",
    "costs_of",
    "hardware_named",
    "plan",
    "read_hardware",
    "shape_of",
    "sizes_of",
    "skeleton",
    "workload",
]
