"""What a visitor does with scans besides running: see them once they are uploaded, correct, ask who found what."""

from dataclasses import replace
from pathlib import Path

import gradio as gr

from app.explained import explained
from app.preview import correct, preview
from app.results import Result
from app.ui.actions import FIELDS, Actions, in_sight
from app.ui.tables import once_corrected, said
from iris_core.case import InputError

NO_SCAN = InputError("No scan is looked at; choose one")


class Bench:
    """Events on uploads and results; like those of Actions, which they share sessions with."""

    def __init__(self, actions: Actions) -> None:
        self.actions, self.sessions = actions, actions.sessions

    def arrive(self, key, request: gr.Request):
        """A page has been loaded, perhaps again: whether it was, token, what was filled in, what in_sight gives,
        status, masks and extras to take away."""
        token = self.sessions.arrive(request.session_hash, key)
        self.actions.admit(request)
        fields = self.sessions.desk(request.session_hash).fields
        if not fields:
            return gr.skip()
        result = self.sessions.find(token)
        if not result:
            return True, token, *fields, *[gr.skip()] * 8
        seen = in_sight(result, len(result.scans) - 1 if result.scans else None)
        files = ([str(path) for path in paths] for paths in (result.masks, result.extras))
        return True, token, *fields, *seen, said("", "Everything is here as it was."), *files

    def preview(self, request: gr.Request, token, *values):
        """The uploads as they are: token, what in_sight gives. What cannot be read is said elsewhere."""
        visitor = request.session_hash
        self.actions.admit(request)
        self.sessions.desk(visitor).fields = values[:FIELDS]
        if self.sessions.busy(visitor):  # the run shows them when it ends
            return gr.skip()
        try:
            inputs = self.actions.inputs(*values)
            self.actions.note(inputs, request)
            if token is None:
                with self.sessions.opened(visitor) as (token, folder):
                    self.sessions.keep(token, preview(folder, inputs, Result(folder)))
            else:
                former = self.sessions.result(token)
                self.sessions.change(token, preview(former.folder, inputs, former))
            result = self.sessions.result(token)
        except (InputError, gr.Error):
            return gr.skip()
        return token, *in_sight(result, len(result.scans) - 1 if result.scans else None)

    def correct(self, token, scan, corrected, request: gr.Request):
        """A corrected mask takes the place of a query's: scans, the field for the mask, what to do next, extras."""
        result = self.actions.result(token)
        if not corrected:
            raise self.actions.error(InputError("Put the corrected mask here first"))
        if scan is None:
            raise self.actions.error(NO_SCAN)
        corrected = Path(corrected)
        self.sessions.note_uploads(request.session_hash, [corrected])
        try:
            changed = correct(result, scan, corrected)
        except InputError as error:
            raise self.actions.error(error) from error
        self.sessions.change(token, changed)
        desk = self.sessions.desk(request.session_hash)
        desk.corrected[changed.scans[scan].uploads[0]] = corrected
        return *in_sight(changed, scan), None, once_corrected(changed), [str(path) for path in changed.extras]

    def explain(self, token, scan):
        """Who found what becomes one of the ways to mark a scan."""
        result = self.actions.result(token)
        if scan is None:
            raise self.actions.error(NO_SCAN)
        try:
            changed = explained(self.actions.service, result.scans[scan], result.classes)
        except InputError as error:
            raise self.actions.error(error) from error
        scans = (*result.scans[:scan], changed, *result.scans[scan + 1 :])
        self.sessions.change(token, replace(result, scans=scans))
