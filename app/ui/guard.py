"""What stands before the page's server: the headers of its answers, and which requests are refused."""

import base64
import hashlib
import re
from collections.abc import Iterable, Sequence

import gradio as gr
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse

from app.session import Sessions
from app.ui.looks import HEAD
from iris_core.case import InputError

SPACES = "https://huggingface.co"  # shows each Space in a frame
MAX_BODY = 16 * 2**20  # bytes of a request that is no upload
# What gradio offers beside a page, and this one does not use: recordings and files of components, which no limit
# counts, and requests to other machines.
CLOSED = re.compile(r"/gradio_api/(process_recording|component_server|deep_link|proxy=|file[=/]https?:)")
WATCH = re.compile(r"/gradio_api/heartbeat/([^/]+)/?")  # asked for as long as a page is open
SCRIPT = re.compile(rb"<script\b(?![^>]*\bsrc=)[^>]*>(.*?)</script>", re.DOTALL)
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), serial=(), usb=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Guard:
    """ASGI middleware: every answer says what a browser may do with it; other sites' pages cannot use this one.

    embed: origins that may show the page in a frame.
    """

    def __init__(self, app, embed: Sequence[str] = ()) -> None:
        self.app, self.frames = app, "frame-ancestors " + (" ".join(embed) or "'none'")

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        path, start, body = scope["path"], None, b""

        async def guarded(message) -> None:
            """Of the page itself the whole text is waited for: the header names its scripts."""
            nonlocal start, body
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                if headers.get("Content-Type", "").startswith("text/html") and "/file" not in path:
                    start = message
                    return
                headers["Content-Security-Policy"] = f"default-src 'none'; sandbox; {self.frames}"
            elif start:
                body += message.get("body", b"")
                if message.get("more_body"):
                    return
                scripts = [*SCRIPT.findall(body), *SCRIPT.findall(HEAD.encode())]
                MutableHeaders(scope=start)["Content-Security-Policy"] = f"{policy(scripts)}; {self.frames}"
                await send(start)
                start, message = None, message | {"body": body}
            await send(message)

        foreign = Headers(scope=scope).get("Sec-Fetch-Site") == "cross-site"
        if CLOSED.match(path):
            await PlainTextResponse("Not found", 404)(scope, receive, guarded)
        elif foreign and scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            await PlainTextResponse("Another site's page may not use this one", 403)(scope, receive, guarded)
        else:
            await self.app(scope, receive, guarded)


def policy(scripts: Iterable[bytes]) -> str:
    """The Content-Security-Policy of a page with these scripts in it; others in its text are not run.

    eval is how gradio runs the `js` of events, and styles in the text are how it and NiiVue place things.
    """
    hashes = {f"'sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode()}'" for script in scripts}
    return (
        f"default-src 'self'; script-src 'self' 'unsafe-eval' {' '.join(sorted(hashes))}; worker-src 'self' blob:;"
        " style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:;"
        " connect-src 'self' data: blob:; object-src 'none'; base-uri 'self'; form-action 'none'; frame-src 'none'"
    )


class Room:
    """ASGI middleware: an upload is taken where the disk has room for it, any other request where it is short. Whose
    page is open is told to ``sessions``."""

    def __init__(self, app, sessions: Sessions) -> None:
        self.app, self.sessions = app, sessions

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if page := WATCH.fullmatch(scope["path"]):
            self.sessions.watch(page[1])
        headers = Headers(scope=scope)
        length = int(headers.get("Content-Length", 0))
        refusal = None
        if "Transfer-Encoding" in headers:
            refusal = PlainTextResponse("A request must say its length: Content-Length", 411)
        elif not scope["path"].rstrip("/").endswith("/gradio_api/upload"):
            if length > MAX_BODY:
                refusal = PlainTextResponse(f"A request may have {MAX_BODY} bytes, got {length}", 413)
        else:
            try:
                await run_in_threadpool(self.sessions.reserve, length)
            except InputError as error:
                refusal = PlainTextResponse(str(error), 507)
            else:
                try:
                    return await self.app(scope, receive, send)
                finally:
                    self.sessions.release(length)
        await (refusal or self.app)(scope, receive, send)


class Files:
    """ASGI middleware: scans and masks are not left in the browser's cache; one that was deleted with its visitor while
    it was asked for is not found, and no error of the server."""

    def __init__(self, app) -> None:
        self.app = app

    async def __call__(self, scope, receive, send) -> None:
        begun = False

        async def send_uncached(message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                MutableHeaders(scope=message)["Cache-Control"] = "no-store"
            await send(message)

        if "/file=" not in scope.get("path", ""):
            return await self.app(scope, receive, send)
        try:
            await self.app(scope, receive, send_uncached)
        except RuntimeError as error:  # starlette's, of a file that is gone
            if begun or "does not exist" not in str(error):
                raise
            await PlainTextResponse("Not found", 404)(scope, receive, send)


def fetch_nothing(page: gr.Blocks) -> None:
    """Where a program names an address as its file, gradio would fetch it, however large: it is refused."""

    def refusing(move):
        async def moved(path, *more):
            if re.match(r"\s*\w+://", str(path)):
                raise gr.Error("A file must be uploaded; addresses are not fetched", print_exception=False)
            return await move(path, *more)

        return moved

    for block in page.blocks.values():
        if isinstance(block, gr.components.Component):
            block.async_move_resource_to_block_cache = refusing(block.async_move_resource_to_block_cache)
