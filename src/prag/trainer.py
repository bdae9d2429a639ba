"""A base model made ready to train adapters of a recipe on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from prag.config import Recipe
from prag.encode import encode_group
from prag.lora import Adapter, Site
from prag.model import BaseModel, check_logits
from prag.precision import learner
from prag.progress import Tell, silent
from prag.prompts import Lesson
from prag.quiet import NOTHING, Quiet, quiet_of, shared_beginning
from prag.replay import check_replay, check_trees, first_layer, sites_of


@dataclass(frozen=True)
class Trainer:
    """What every group of lessons needs, prepared once.

    Args:
        base: in the precision of training.
        quiet: how adapters read, in the same.
        filters: those of `quiet` as they were measured, for another process to take over.
        sites: that get adapters.
    """

    recipe: Recipe
    base: BaseModel
    quiet: Quiet
    filters: Mapping[str, Tensor]
    sites: tuple[Site, ...]

    @classmethod
    def ready(
        cls,
        base: BaseModel,
        recipe: Recipe,
        progress: Tell = silent,
        filters: Mapping[str, Tensor] | None = None,
    ) -> Trainer:
        """Check that the model can be trained on, and read what all lessons share.

        Args:
            filters: measured elsewhere, on this very model; by default they are measured here, or
                found in the cache.

        Raises:
            PragError: the model computes in a way that training here does not know.
        """
        check_logits(base)
        check_replay(base, first_layer(base, recipe.train.layers))
        if recipe.train.step == "passage":
            check_trees(base)
        sites = sites_of(base, recipe.train)
        trained = learner(base, recipe.train.precision)
        if filters is None:
            quiet = quiet_of(base, sites, recipe, progress)
        elif recipe.train.quiet == 0:
            quiet = NOTHING
        else:
            here = {name: P.to(base.device) for name, P in filters.items()}
            quiet = Quiet(here, shared_beginning(base, sites, recipe))
        return cls(recipe, trained, quiet.to(trained.dtype), quiet.filters, sites)

    def encode(
        self, lessons: Sequence[Lesson], after_step: Callable[[int], None] | None = None
    ) -> list[Adapter]:
        """The adapters of a group of passages; see `prag.encode.encode_group`."""
        return encode_group(self.base, self.recipe.train, lessons, self.quiet, after_step)
