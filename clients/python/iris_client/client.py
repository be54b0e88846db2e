"""The client: what Iris' own Service does, done by a server."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import unescape
from secrets import token_hex

import httpx
import numpy as np

from iris_client.errors import InputError, ServerError
from iris_client.nifti import labels_of, mask_file, scan_file

QUIET_S = 60  # a server that works says so every 15 s
ENDING = ".task.safetensors"
UPLOADED = {"meta": {"_type": "gradio.FileData"}}


@dataclass(frozen=True)
class Task:
    """What references show, encoded. content: a task file, *.task.safetensors, for the server's weights only."""

    content: bytes


@dataclass(frozen=True)
class _File:
    """To be uploaded. called: how messages call it."""

    called: str
    ending: str
    content: bytes


class Client:
    """One server. Each call brings what it needs and takes its results away: the server keeps nothing.

    address: http://host:port of an `iris serve`. token: its --token. Every method raises InputError for what the server
    cannot use, ServerError where it does not answer as one. May be used by several threads.
    """

    def __init__(self, address: str = "http://127.0.0.1:7860", token: str | None = None) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            self._http = httpx.Client(base_url=f"{address.rstrip('/')}/gradio_api/", headers=headers, timeout=QUIET_S)
        except (httpx.InvalidURL, UnicodeEncodeError) as error:
            raise InputError(f"the address must be http://host:port and the token ASCII, got {address!r}") from error
        if self._http.base_url.scheme not in ("http", "https") or not self._http.base_url.host:
            raise InputError(f"the address must be http://host:port, got {address!r}")

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def encode(self, *references, classes: Sequence[str] = (), grid: str = "auto") -> Task:
        """The task of one reference, the mean of several; or, without any, that of classes that the weights know.

        references: cases with labels. grid: 'auto', or 'paper' for 1.5 mm.
        """
        scans = [_File(reference.name, ".nii.gz", scan_file(reference)) for reference in references]
        masks = [_File(reference.name, ".nii.gz", mask_file(reference)) for reference in references]
        files = {"references": scans, "masks": masks}
        (task,) = self._call("encode", files, {"classes": list(classes), "grid": grid})
        return Task(self._fetch(task))

    def segment(self, task: Task, query) -> np.ndarray:
        """Labels (x, y, z) on the query's own grid, 0 is background. query: a case; its labels are not looked at."""
        scan, shown = _File(query.name, ".nii.gz", scan_file(query)), _File("the task", ENDING, task.content)
        (mask,), _ = self._call("segment", {"queries": [scan], "tasks": [shown]}, {"confidence": False})
        return labels_of(self._fetch(mask))

    def classes(self) -> dict[str, dict]:
        """The classes that the weights know: name → updates in training, spacing in mm, scheme of intensities."""
        (known,) = self._call("classes", {}, {})
        return known

    def _fetch(self, file: dict) -> bytes:
        return self._ask("GET", f"file={file['path']}").content

    def _call(self, name: str, files: dict[str, list[_File]], asked: dict) -> list:
        """What an endpoint returns. files: of its inputs those that are uploaded."""
        # The server deletes a call's uploads when it ends; those of a call beside it must have other names.
        sent = {f"{token_hex(8)}{file.ending}": file for part in files.values() for file in part}
        paths = iter(self._send(sent) if sent else ())
        uploads = {part: [UPLOADED | {"path": next(paths)} for _ in these] for part, these in files.items()}
        asked = asked | {part: these or None for part, these in uploads.items()}
        event = self._ask("POST", f"call/v2/{name}", json=asked).json()["event_id"]
        for kind, data in self._events(f"call/{name}/{event}"):
            if kind == "complete":
                return data
            if kind == "error":
                if not (isinstance(data, dict) and data.get("error")):
                    raise ServerError(f"the server failed ({data}); what it printed says why")
                message = unescape(data["error"].replace("<br>", "\n"))
                for upload, file in sent.items():
                    message = message.replace(upload, file.called)
                raise InputError(message)
        raise ServerError("the server closed the connection before it was done; is it still running?")

    def _send(self, files: dict[str, _File]) -> list[str]:
        """Upload files, all, or where one is refused none: their paths on the server."""
        content = [("files", (name, file.content)) for name, file in files.items()]
        return self._ask("POST", "upload", files=content).json()

    def _events(self, path: str) -> Iterator[tuple[str, object]]:
        """Server-sent events: what each is called, and its data."""
        try:
            with self._http.stream("GET", path) as stream:
                self._check(stream)
                kind = ""
                for line in stream.iter_lines():
                    field, _, value = line.partition(": ")
                    if field == "event":
                        kind = value
                    elif field == "data":
                        yield kind, json.loads(value)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    def _ask(self, method: str, path: str, **content) -> httpx.Response:
        try:
            response = self._http.request(method, path, **content)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        self._check(response)
        return response

    def _check(self, response: httpx.Response) -> None:
        if response.is_success:
            return
        if response.status_code == 401:
            raise ServerError(
                f"{self._http.base_url.host}: the token must be that of `iris serve --token`; it was refused"
            )
        response.read()
        if response.status_code == 413:
            raise InputError(f"a scan is larger than the server takes: {response.text}")
        if response.status_code in (503, 507):  # its queue is full, or its disk
            raise ServerError(f"the server is busy: {response.text}")
        raise ServerError(
            f"{response.url}: must be an `iris serve`, answered {response.status_code} {response.text[:200]}"
        )

    def _unreachable(self, error: httpx.HTTPError) -> ServerError:
        return ServerError(f"{self._http.base_url}: no answer ({error}); is `iris serve` running there?")
