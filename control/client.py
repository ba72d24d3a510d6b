"""The command line's end of the API: one request over the run directory's socket."""
from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any
from urllib.parse import quote


class ClientError(Exception):
    """Why there is no answer, in one sentence."""


class Connection(http.client.HTTPConnection):
    """HTTP over the Unix socket at path."""

    def __init__(self, path: Path, timeout: float = 30) -> None:
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


class Client:
    def __init__(self, run_dir: Path, timeout: float = 30) -> None:
        self.path, self.timeout = run_dir / "api.sock", timeout

    def request(self, method: str, *path: str) -> Any:
        """What the concentrator answers, decoded."""
        connection = Connection(self.path, self.timeout)
        try:
            connection.request(method, "/v1/" + "/".join(quote(part, safe="") for part in path))
            response = connection.getresponse()
            body = response.read()
        except (FileNotFoundError, ConnectionRefusedError):
            raise ClientError(f"headrace is not running: nothing answers at {self.path}")
        except PermissionError:
            raise ClientError(f"{self.path} may not be used by this user; try it as root")
        except TimeoutError:
            raise ClientError(f"headrace does not answer at {self.path}")
        except (OSError, http.client.HTTPException) as error:
            raise ClientError(f"the connection to headrace at {self.path} broke: {error!r}")
        finally:
            connection.close()
        answer = json.loads(body)
        if response.status >= 400:
            raise ClientError(answer["error"])
        return answer
