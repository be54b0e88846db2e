"""The page's endpoints without the page, for `iris serve`. Each call is a visit of its own, and leaves nothing."""

import hmac
import re
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path

import gradio as gr
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import JSONResponse

from app.limits import Limits
from app.session import KEPT_S
from app.ui import layout
from app.ui.actions import Actions
from app.ui.page import new_actions, programs, ready, serve_at, shown_of
from app.ui.programs import Programs
from iris_core.case import InputError

FETCH_S = 600  # for a program to fetch what a call returned
STARTED = "/gradio_api/startup-events"  # gradio asks itself, without a token, whether it has started
FILE = "/gradio_api/file="
ABOUT = "This is a server for programs: `iris serve`. The page is `iris app`."


class Token:
    """ASGI middleware: who does not send the token is answered 401, whatever the address."""

    def __init__(self, app, token: str) -> None:
        self.app, self.expected = app, f"Bearer {token}".encode()

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] in ("http", "websocket") and scope["path"] != STARTED:
            given = Headers(scope=scope).get("Authorization", "").encode()
            if not hmac.compare_digest(given, self.expected):
                message = "the token of `iris serve --token` must be sent as `Authorization: Bearer TOKEN`"
                refusal = JSONResponse({"detail": message}, 401, {"WWW-Authenticate": "Bearer"})
                await refusal(scope, receive, send)
                return
        await self.app(scope, receive, send)


class Fetched:
    """ASGI middleware: a file of a folder below ``root`` is deleted once it has been sent."""

    def __init__(self, app, root: Path) -> None:
        self.app, self.root = app, root

    async def __call__(self, scope, receive, send) -> None:
        status = None

        async def noted(message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        await self.app(scope, receive, noted)
        file = Path(scope.get("path", "").removeprefix(FILE))
        if status == 200 and scope["method"] == "GET" and file.parent.parent == self.root:
            file.unlink(missing_ok=True)
            with suppress(OSError):  # others lie there still
                file.parent.rmdir()


class Calls(Programs):
    """The endpoints; of a call only what it returns stays, until it is fetched, for FETCH_S at most."""

    @wraps(Programs.segment)
    def segment(self, request: gr.Request, *values):
        with self._visit(values) as visit:
            masks, rows = super().segment(visit, *values)
            return self._set_out(*masks), rows

    @wraps(Programs.encode)
    def encode(self, request: gr.Request, *values):
        with self._visit(values) as visit:
            return self._set_out(super().encode(visit, *values))[0]

    @contextmanager
    def _visit(self, values: tuple) -> Iterator[gr.Request]:
        """A visitor of their own for a call with these values, of which lists may be uploads."""
        visitor, sessions = secrets.token_urlsafe(32), self.actions.sessions
        sessions.note_uploads(visitor, [path for value in values if isinstance(value, list) for path in value])
        try:
            yield gr.Request(session_hash=visitor)
        finally:
            sessions.close(visitor)
            for broken_off in sessions.root.glob("tmp*"):  # an upload whose sender went away
                with suppress(OSError):  # it was under way, and is there by now
                    if time.time() - broken_off.stat().st_mtime > FETCH_S:
                        broken_off.unlink()

    def _set_out(self, *files: str) -> list[str]:
        """Move files to where they can be fetched, and the visit does not end them."""
        folder = self.actions.sessions.root / secrets.token_urlsafe(32)
        folder.mkdir()
        expiry = threading.Timer(FETCH_S, shutil.rmtree, [folder], {"ignore_errors": True})
        expiry.daemon = True
        expiry.start()
        return [str(Path(file).rename(folder / Path(file).name)) for file in files]


def launch(weights: str, device: str, host: str, port: int, token: str | None, limits: Limits) -> None:
    """Serve until interrupted or terminated. token: printable ASCII without spaces, or None for no check."""
    if token is not None and not re.fullmatch(r"[!-~]+", token):
        raise InputError(
            "--token must be letters, digits and signs of ASCII without spaces, at least one; choose another"
        )
    actions = new_actions(weights, device, limits)
    middleware = [Middleware(Token, token=token)] if token else []
    middleware.append(Middleware(Fetched, root=actions.sessions.root))
    serve_at(host, port, build(actions), middleware=middleware)


def as_given(chosen):
    """What is no choice the call itself refuses, which then takes its uploads along."""
    return chosen


def build(actions: Actions) -> gr.Blocks:
    """The endpoints, with the page's components as their inputs. An upload that no call takes stays for KEPT_S."""
    with gr.Blocks(title="Iris", analytics_enabled=False, delete_cache=(600, KEPT_S)) as server:
        gr.Markdown(ABOUT)
        with gr.Column(visible=False):
            show, choose, run = layout.show(actions.service, {}), layout.choose(), layout.segment()
        shown = shown_of(show)
        inputs = [*shown, run.queries, run.truths, choose.strategy, choose.grid, choose.confidence, *choose.options]
        programs(Calls(actions), shown, choose, inputs)
    for block in server.blocks.values():
        if isinstance(block, gr.Dropdown | gr.Radio):
            block.preprocess = as_given
    return ready(server, actions.sessions)
