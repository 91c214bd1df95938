"""The page of `giza view` and what it asks for, on this machine alone."""

from __future__ import annotations

import json
import re
import socket
from functools import lru_cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from corpora.store.remote import here
from jobs.viewing.items import Film, Viewed

PAGE = Path(__file__).with_name("view.html")
AT_ONCE = 1 << 20
"""Bytes of a video that are sent at once."""
REMEMBERED = 8
"""Items whose tracks and films are kept: a browser asks for a video piece by piece."""


def serve(viewed: Viewed, title: str, port: int) -> ThreadingHTTPServer:
    """A server on 127.0.0.1, to be run with `serve_forever`. Raises ValueError where the port is taken."""

    @lru_cache(maxsize=REMEMBERED)
    def tracks(number: int) -> bytes:
        return json.dumps([track.to_json() for track in viewed.tracks(number)]).encode()

    films = lru_cache(maxsize=REMEMBERED)(viewed.films)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            host = (self.headers.get("Host") or "").rsplit(":", 1)[0]
            if host not in ("127.0.0.1", "localhost"):  # a page of another site that has been given this address
                self.send_error(HTTPStatus.FORBIDDEN)
                return
            try:
                self._answer()
            except (BrokenPipeError, ConnectionResetError):  # the browser has enough of this video
                self.close_connection = True
            except (ValueError, OSError) as error:
                self._send(json.dumps({"error": str(error)}).encode(), "application/json", HTTPStatus.CONFLICT)

        def _answer(self) -> None:
            if self.path == "/":
                self._send(PAGE.read_bytes(), "text/html; charset=utf-8")
            elif self.path == "/items":
                listed = {"title": title, "items": [vars(head) for head in viewed.heads]}
                self._send(json.dumps(listed).encode(), "application/json")
            elif (found := re.fullmatch(r"/items/(\d+)/(tracks|films|film/(\d+))", self.path)) and int(found[1]) < len(
                viewed.heads
            ):
                number = int(found[1])
                if found[2] == "tracks":
                    self._send(tracks(number), "application/json")
                elif found[2] == "films":
                    named = [
                        {name: getattr(film, name) for name in ("camera", "from_s", "aspect")} for film in films(number)
                    ]
                    self._send(json.dumps(named).encode(), "application/json")
                elif int(found[3]) < len(films(number)):
                    self._send_film(films(number)[int(found[3])])
                else:
                    self.send_error(HTTPStatus.NOT_FOUND)
            else:
                self.send_error(HTTPStatus.NOT_FOUND)

        def _send(self, data: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(data)

        def _send_film(self, film: Film) -> None:
            """The bytes that were asked for: a browser jumps in a video by asking for the rest of it from somewhere."""
            source = film.source
            size = len(source) if isinstance(source, bytes) else here(source).stat().st_size
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
            first = int(wanted[1]) if wanted else 0
            last = min(int(wanted[2]) if wanted and wanted[2] else size - 1, size - 1)
            if first > last:
                self.send_error(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
                return
            self.send_response(HTTPStatus.PARTIAL_CONTENT if wanted else HTTPStatus.OK)
            self.send_header("Content-Type", "video/mp4")
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(last + 1 - first))
            if wanted:
                self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
            self.end_headers()
            if isinstance(source, bytes):
                self.wfile.write(source[first : last + 1])
                return
            with source.open("rb") as file:
                file.seek(first)
                left = last + 1 - first
                while left and (block := file.read(min(left, AT_ONCE))):
                    self.wfile.write(block)
                    left -= len(block)

        def log_message(self, *_: Any) -> None:
            """Nothing: a line a request would bury the address."""

    try:
        return _Server(("127.0.0.1", port), Handler)
    except OSError as error:
        raise ValueError(f"--port {port}: {error.strerror}; give another, or 0 for a free one") from error


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    address_family = socket.AF_INET
