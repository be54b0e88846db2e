"""What the page's events do: from what gradio hands over to what its components show."""

import re
import secrets
import shutil
import tempfile
import threading
import time
from dataclasses import replace
from html import escape
from pathlib import Path

import gradio as gr

from app.checks import check, forecast
from app.commands.references import parse_names
from app.results import Result
from app.sample_scans import samples
from app.service import Service
from app.session import Sessions
from app.ui.tables import outcome, said, scans_table
from app.uploads import gather, pairs
from app.viewers.atlas import figure, known_atlas
from app.work import Inputs, References, Stopped, run
from iris_core.case import InputError
from iris_core.strategies import Options
from nnunet_adapters.folder import FAILURES
from nnunet_adapters.images import read_scan

CANCEL = "Cancel (Esc)"
MESSAGE = {"duration": 30}  # seconds that a message stays on the page
CHECKED = 5  # queries that are read before the run
REPLACED = InputError("Another run of the same visitor took its place; let one end before the next")
MEASURED_S = 5  # how often a run looks at the room on disk
FIELDS = 7  # of the values that inputs_of takes: those that a visitor fills in
FIRST = 3  # remarks on them that are shown at once


class Actions:
    """What the page's events call. Shared by all visitors; a visitor's token leads to their result."""

    def __init__(self, service: Service, sessions: Sessions) -> None:
        self.service, self.sessions = service, sessions
        self.samples = samples()
        self._stops: dict[str, threading.Event] = {}  # visitor → set when their run shall end

    def fill(self, key: str):
        """The event that gives a visitor a sample: references, masks, names, tasks, classes, queries, true masks and
        checks. The files are their own copies: those of other visitors may be deleted at any time."""
        sample = self.samples[key]
        names = " ".join(f"{value}={name}" for value, name in sample.names.items())

        def filled(request: gr.Request) -> list:
            self.admit(request)
            folder = self.sessions.root / secrets.token_hex(32)
            folder.mkdir()
            files = sample.reference, sample.mask, sample.query, sample.query_mask
            copies = [shutil.copy(file, folder) for file in files]
            self.sessions.note_uploads(request.session_hash, copies)
            reference, mask, query, truth = map(str, copies)
            return [[reference], [mask], names, None, [], [query], [truth], ""]

        return filled

    def begin(self, request: gr.Request):
        """End a run that is under way; from now on the visitor may cancel: status, cancel."""
        self._stop(request)
        self._stops[request.session_hash] = threading.Event()
        return "", gr.Button(CANCEL, visible=True, interactive=True)

    def cancel(self, request: gr.Request):
        """The run ends with its next step, one that waits for its turn when that comes; what is done stays. The button
        says so, and not the status, where the run may have said already that it has ended."""
        self._stop(request)
        if not self.sessions.busy(request.session_hash):
            return gr.Button("Cancelled: when its turn comes, this run will do nothing", interactive=False)
        return gr.Button("Cancelling: the step that is under way comes to its end first …", interactive=False)

    def close(self, request: gr.Request) -> None:
        """The visitor has left: their run ends; unless they come back soon, their files are deleted."""
        self._stop(request)
        self._stops.pop(request.session_hash, None)
        self.sessions.leave(request.session_hash)

    def _stop(self, request: gr.Request) -> None:
        if stop := self._stops.get(request.session_hash):
            stop.set()

    def atlas(self):
        """The structures that the weights know, as a figure."""
        return figure(known_atlas(self.service.checkpoint.bank))

    def look_before(self, request: gr.Request, *values) -> str:
        """What is to be said of the uploads before the run: which belong together, what does not fit, how long."""
        parts = []
        try:
            inputs = inputs_of(*values)
            self.note(inputs, request)
            with tempfile.TemporaryDirectory(dir=self.sessions.root) as folder:
                inputs.require_files()
                if len(references := list(gather(inputs.references, Path(folder)))) > 1:
                    parts.append(
                        said("", "Pairs: " + "; ".join(_pair(*pair) for pair in pairs(references, inputs.masks)))
                    )
                if inputs.queries and (inputs.tasks or (inputs.references and inputs.masks)):
                    parts.append(self._advice(inputs, Path(folder)))
        except InputError as error:
            parts.append(said("bad", self.readable(error)))
        return "".join(parts)

    def _advice(self, inputs: Inputs, folder: Path) -> str:
        references = References.of(self.service, inputs, folder, {})
        task = self.service.plan("auto", references.cases, references.encoded, grid=inputs.grid)(None).embedding
        queries = list(gather(inputs.queries, folder))
        advice, seconds, gib = [], 0.0, 0.0
        for path in queries[:CHECKED]:
            query = read_scan(path)
            advice += check(references.cases, query)
            need = forecast(self.service, task, query)
            seconds, gib = seconds + need.seconds, max(gib, need.gib)
        seconds *= len(queries) / len(queries[:CHECKED]) * (2 if inputs.confidence and references.cases else 1)
        seconds *= 2 if inputs.strategy == "retrieval" else 1  # a first pass looks for what is alike
        text = f"{len(queries)} queries" if len(queries) > 1 else "One query"
        text += f": about {spoken(seconds)} and {max(gib, 0.1):.1f} GiB of memory."
        advice = [self.readable(sentence) for sentence in dict.fromkeys(advice)]
        more = (
            f"<details><summary>{len(advice) - FIRST} more remarks</summary>{said('warn', *advice[FIRST:])}</details>"
        )
        return said("good", text) + said("warn", *advice[:FIRST]) + more * (len(advice) > FIRST)

    def admit(self, request: gr.Request) -> None:
        """Raises gr.Error where there is no place for another visitor, or no room for files."""
        try:
            self.sessions.admit(request.session_hash)
            self.sessions.require_room()
        except InputError as error:
            raise self.error(error) from error

    def note(self, inputs: Inputs, request: gr.Request) -> None:
        files = (*inputs.references, *inputs.masks, *inputs.tasks, *inputs.queries, *inputs.truths)
        self.sessions.note_uploads(request.session_hash, files)

    def run(self, request: gr.Request, token, progress=gr.Progress(), *values):  # noqa: B008
        """Segment all queries: status, cancel, token, what in_sight gives, masks, extras, views."""
        self.admit(request)
        started = time.monotonic()
        stop = self._stops.setdefault(request.session_hash, threading.Event())
        former = self.sessions.find(token)

        def report(what: str, share: float) -> None:
            if stop.is_set():
                raise Stopped
            spent = time.monotonic() - started
            left = f", about {spoken(spent / share - spent)} left" if share > 0 else ""
            progress(share, f"{self.sessions.without_folders(what)}{left}")

        self.sessions.desk(request.session_hash).fields = values[:FIELDS]
        nothing = [gr.skip()] * 9  # what the page shows stays
        try:
            token, result = self.segment(self._again(self.inputs(*values), former, request), request, report)
        except gr.Error as error:
            if self._stops.get(request.session_hash) is not stop:  # the page shows another run by now
                return gr.skip()
            gr.Warning(error.message, **MESSAGE)
            return said("bad", error.message), gr.Button(visible=False), *nothing
        if self._stops.get(request.session_hash) is not stop:
            return gr.skip()
        for failure in result.failures:
            gr.Warning(self.readable(failure), **MESSAGE)
        failures = map(self.readable, result.failures)
        status = outcome(result, failures, time.monotonic() - started, former.trust if former else None)
        if not result.masks:
            return status, gr.Button(visible=False), *nothing
        first = next(i for i, scan in enumerate(result.scans) if scan.found)
        return (
            status,
            gr.Button(visible=False),
            token,
            *in_sight(result, first),
            [str(path) for path in result.masks],
            [str(path) for path in result.extras],
            None,
        )

    def _again(self, inputs: Inputs, former: Result | None, request: gr.Request) -> Inputs:
        """With what the visitor corrected, and how sure the former result was of the rest."""
        corrected = self.sessions.desk(request.session_hash).corrected
        trust = {scan.uploads[0]: scan.trust for scan in former.queries if scan.trust is not None} if former else {}
        return replace(inputs, corrected={q: mask for q, mask in corrected.items() if mask.is_file()}, trust=trust)

    def segment(self, inputs: Inputs, request: gr.Request, report) -> tuple[str, Result]:
        """The visitor's new result with its token. Raises gr.Error where nothing came of it."""
        if not inputs.queries:
            raise self.error(InputError("Add at least one query first (step 3)"))
        if not (inputs.references or inputs.masks or inputs.tasks or inputs.classes):
            raise self.error(
                InputError("Show a reference scan with its mask first (step 1), a saved task, or a known structure")
            )
        self.admit(request)
        self.note(inputs, request)
        cache = self.sessions.desk(request.session_hash).cache
        with self.sessions.opened(request.session_hash) as (token, folder):

            def go_on(what: str, share: float) -> None:
                if not self.sessions.wanted(token):
                    raise Stopped
                self.sessions.require_room(measured_s=MEASURED_S)
                report(what, share)

            try:
                result = run(self.service, folder, inputs, go_on, cache)
            except FAILURES as error:
                raise self.error(error if self.sessions.wanted(token) else REPLACED) from error
            if not self.sessions.wanted(token):
                raise self.error(REPLACED)
            if not result.masks and not result.stopped:
                raise self.error(*result.failures)
            if result.masks:
                self.sessions.keep(token, result)
        return token, result

    def readable(self, error: Exception | str) -> str:
        """The terminal's message as HTML, with the names of files instead of their places on the server."""
        return escape(self.sessions.without_folders(str(error)))

    def inputs(self, *values) -> Inputs:
        """``inputs_of``, for what is shown at once. Raises gr.Error."""
        try:
            return inputs_of(*values)
        except InputError as error:
            raise self.error(error) from error

    def error(self, *errors: Exception) -> gr.Error:
        return gr.Error("<br>".join(map(self.readable, errors)), print_exception=False, **MESSAGE)

    def result(self, token) -> Result:
        try:
            return self.sessions.result(token)
        except InputError as error:
            raise self.error(error) from error


def in_sight(result: Result, chosen: int | None) -> tuple:
    """What follows a result: the parts of the page that look at scans and take away what was found, scans, structures,
    volumes."""
    return (
        gr.Column(visible=bool(result.scans)),
        gr.Column(visible=bool(result.masks)),
        gr.Dropdown([(scan.title, i) for i, scan in enumerate(result.scans)], value=chosen),
        gr.CheckboxGroup(choices=list(result.names), value=list(result.names)),
        scans_table(result),
    )


def inputs_of(
    references, masks, names, tasks, classes, queries, truths, strategy, grid, confidence, *options
) -> Inputs:
    """The values of the page's components, in their order. options: top_k, seed, steps, rate."""
    if None in options:
        raise InputError("The strategy's settings must be numbers, one of them is empty; fill it in (step 2)")
    files = [tuple(map(Path, paths or ())) for paths in (references, masks, tasks, queries, truths)]
    return Inputs(
        references=files[0],
        masks=files[1],
        tasks=files[2],
        classes=tuple(classes or ()),
        queries=files[3],
        truths=files[4],
        names=split_names(names or ""),
        strategy=strategy,
        grid=grid,
        options=Options(*(kind(value) for kind, value in zip((int, int, int, float), options, strict=False))),
        confidence=confidence,
    )


def split_names(text: str) -> dict[int, str]:
    """'1=left kidney, 2=spleen' → {1: 'left kidney', 2: 'spleen'}."""
    return parse_names(tuple(filter(None, re.split(r"[\s,;]+(?=-?\d+=)", text.strip()))))


def spoken(seconds: float) -> str:
    return f"{max(1, round(seconds))} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _pair(scan: Path, mask: Path) -> str:
    return f"{escape(scan.name)} with {escape(mask.name)}"
