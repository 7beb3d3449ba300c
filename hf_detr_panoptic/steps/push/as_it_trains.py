"""The recipe's `push` block: each stage to its branch as it ends, the rest when the run is finished."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import HfDetrPanopticError, HubError
from ..refusals import clear_errors
from .card_pictures import draw_card_pictures
from .command import planned, send, stage_upload

if TYPE_CHECKING:
    from ...hub.repository import Hub
    from ...recipe import Recipe
    from ...settings import Push
    from ...training.run_folder import StageEnd


class PushAsItTrains:
    """One run on its way to the Hub. Made before training: whoever may not push hears of it before hours are spent."""

    def __init__(self, recipe: Recipe, push: Push) -> None:
        from ...hub.contents import Upload
        from ...hub.front_matter import checked_license
        from ...hub.repository import Hub

        checked_license(push.license)
        self.recipe, self.push = recipe, push
        self.run = Path(recipe.output)
        self.data = _dataset(recipe, push)
        self.hub: Hub = Hub()
        self.hub.sign_in()
        wanted = [Upload(push.repository, {}, "")]
        wanted += [Upload(self.data[1], {}, "", kind="dataset", holds="label_space.json")] if self.data else []
        self.hub.make_ready(wanted, private=push.private)

    def stage_ended(self, end: StageEnd) -> None:
        """To its branch. What fails here is only told: training goes on, and the end tries again."""
        if not self.push.stages:
            return
        try:
            with clear_errors(self.run):
                place = (self.push.repository, self.recipe, self.data, self.push.license)
                send(self.hub, stage_upload(self.run, end.name, *place), print)
        except HfDetrPanopticError as error:
            print(f"{end.name} is not pushed yet: {error}", file=sys.stderr)

    def finished(self) -> None:
        """Everything that is not there yet, main last; nothing while a stage is still to come."""
        from ...training.run_folder import finished

        if any(finished(self.run, stage.name) is None for stage in self.recipe.stages.to_run):
            print(f"{self.push.repository}: main waits for the last stage")
            return
        try:
            if self.push.pictures is not None:
                with clear_errors(self.run):
                    draw_card_pictures(self.run, self.recipe, self.push.pictures)
            with planned(
                self.run,
                self.push.repository,
                stages=self.push.stages,
                data=self.data,
                license=self.push.license,
            ) as uploads:
                self.hub.make_ready(uploads, private=self.push.private)
                for upload in uploads:
                    send(self.hub, upload, print)
        except HfDetrPanopticError as error:
            raise type(error)(
                f"the run is finished, but not all of it is pushed: {error.what}",
                where=error.where,
                fix=f"{error.fix or ''} The run is in {self.run}; the same command only pushes what is missing.",
            ) from error


def _dataset(recipe: Recipe, push: Push) -> tuple[str | Path, str] | None:
    """The folder and the name of the dataset, if it is pushed."""
    if push.dataset is None:
        return None
    folder = recipe.prepared_folder or recipe.data
    if isinstance(folder, str) and not Path(folder).is_dir():
        raise HubError(f"'{folder}' is no folder to push", where="push.dataset", fix="Leave it out: it has a name.")
    return str(folder), push.dataset
