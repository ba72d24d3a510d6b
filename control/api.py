"""The API: JSON over HTTP on a Unix socket, the same that the command line uses.

    GET    /v1/sessions            GET  /v1/failed      GET /metrics
    GET    /v1/sessions/NAME       GET  /v1/stats
    DELETE /v1/sessions/NAME       POST /v1/reload

It runs in control's loop and knows of the concentrator what Concentrator says. An error is
{"error": sentence, "where": path} with the status that fits. Whoever may write to the socket (mode
0660) may do all of it.
"""
from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from aiohttp import web

from . import metrics
from .config import ConfigError

log = logging.getLogger("headrace.api")
CHUNK = 500             # sessions of a listing that are written before anybody else in the loop has a turn


class NotFound(Exception):
    """No session has that name."""


class Ambiguous(Exception):
    """Several sessions do."""


class Refused(Exception):
    """It cannot be done now, and the text says why."""


class Concentrator(Protocol):
    """What the API shows. NAME is `<l2tp-USER>`, or a bare user name where it is unique."""

    def sessions(self) -> Iterable[dict[str, Any]]:
        """name, user, service, caller-id, address, uptime, idle-time (seconds), encoding, mtu, mru, rx-bytes, tx-bytes,
        rx-packets, tx-packets, state (starting, authenticating, open, closing); rx is from the peer."""

    def session(self, name: str) -> dict[str, Any]:
        """The same of one session, and local-address. NotFound, Ambiguous."""

    def failed(self) -> list[dict[str, Any]]:
        """The last failures, oldest first: time (seconds since 1970), user, service, caller-id, stage, reason, code."""

    def stats(self) -> dict[str, Any]:
        """Nested: {"uptime": seconds, "sessions": {...}, "tunnels": {...}, "verdicts": {name: count}, "workers": [{...}],
        "offload": {...}, "tables": {...}}. metrics.py says how these become metrics."""

    async def disconnect(self, name: str) -> dict[str, Any]:
        """End a session with its protocol's goodbye; {"name": its full name}. NotFound, Ambiguous."""

    async def reload(self) -> dict[str, Any]:
        """Read the configuration again. ConfigError or Refused when that cannot be."""


def application(concentrator: Concentrator) -> web.Application:
    """The routes; separate from serve() for tests."""
    async def sessions(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        rows = iter(concentrator.sessions())
        batch, before = list(islice(rows, CHUNK)), b"["
        await response.prepare(request)
        while batch:
            await response.write(before + json.dumps(batch)[1:-1].encode())
            await asyncio.sleep(0)
            batch, before = list(islice(rows, CHUNK)), b",\n"
        await response.write(b"[]" if before == b"[" else b"]")
        return response

    async def session(request: web.Request) -> web.StreamResponse:
        return web.json_response(concentrator.session(request.match_info["name"]))

    async def disconnect(request: web.Request) -> web.StreamResponse:
        return web.json_response(await concentrator.disconnect(request.match_info["name"]))

    async def failed(_: web.Request) -> web.StreamResponse:
        return web.json_response(concentrator.failed())

    async def stats(_: web.Request) -> web.StreamResponse:
        return web.json_response(concentrator.stats())

    async def reload(_: web.Request) -> web.StreamResponse:
        return web.json_response(await concentrator.reload())

    async def exposition(_: web.Request) -> web.StreamResponse:
        return web.Response(body=metrics.render(concentrator.stats()), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    app = web.Application(middlewares=[errors])
    app.add_routes([
        web.get("/v1/sessions", sessions), web.get("/v1/sessions/{name}", session), web.delete("/v1/sessions/{name}", disconnect),
        web.get("/v1/failed", failed), web.get("/v1/stats", stats), web.post("/v1/reload", reload), web.get("/metrics", exposition)])
    return app


@web.middleware
async def errors(request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> web.StreamResponse:
    """Every failure as {error, where}."""
    try:
        return await handler(request)
    except NotFound as error:
        status, text = 404, str(error)
    except (Ambiguous, Refused) as error:
        status, text = 409, str(error)
    except ConfigError as error:
        status, text = 422, str(error)
    except web.HTTPException as error:
        status, text = error.status, f"{request.method} {request.path}: {error.reason}"
    except Exception as error:      # a defect of ours must not look like an empty answer
        log.exception("%s %s", request.method, request.path)
        status, text = 500, f"internal error: {error!r}"
    return web.json_response({"error": text, "where": request.path}, status=status)


async def serve(concentrator: Concentrator, path: Path) -> web.AppRunner:
    """Answer on a Unix socket at path until the runner's cleanup()."""
    runner = web.AppRunner(application(concentrator), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o117)        # the mode is right from the first moment on
    try:
        sock.bind(str(path))
    except BaseException:
        sock.close()
        raise
    finally:
        os.umask(before)
    await web.SockSite(runner, sock, backlog=128).start()
    return runner
