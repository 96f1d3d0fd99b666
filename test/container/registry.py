"""A registry of images in this process: one image for every name, or none, with or without a login."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Registry:
    """Serves from its start on. What it lacks is answered with 404, a wrong login with 401."""

    def __init__(self) -> None:
        self.digest = ""
        self._blobs = Path()
        self._media_type = ""
        self._authorization = ""
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                registry._answer(self)

            do_HEAD = do_GET

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, name="registry")
        self._thread.start()

    def serve(self, image: Path, login: str) -> None:
        """Have an image, as a folder in OCI's layout, for whoever logs in as `user:password`."""
        (manifest,) = json.loads((image / "index.json").read_text())["manifests"]
        self._blobs = image / "blobs"
        self.digest, self._media_type = manifest["digest"], manifest["mediaType"]
        self._authorization = f"Basic {base64.b64encode(login.encode()).decode()}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        if self._authorization and request.headers["Authorization"] != self._authorization:
            request.send_response(401)
            request.send_header("WWW-Authenticate", 'Basic realm="models"')
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        body, media_type = self._found(request.path)
        request.send_response(404 if body is None else 200)
        request.send_header("Content-Type", media_type)
        request.send_header("Content-Length", str(len(body or b"")))
        request.send_header("Docker-Distribution-API-Version", "registry/2.0")
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(body or b"")

    def _found(self, path: str) -> tuple[bytes | None, str]:
        if path == "/v2/":
            return b"{}", "application/json"
        if not self.digest:
            return None, "application/json"
        of_manifest = "/manifests/" in path
        name = path.rpartition("/")[2]
        digest = name if name.startswith("sha256:") else self.digest
        file = self._blobs / digest.replace(":", "/")
        return file.read_bytes(), self._media_type if of_manifest else "application/octet-stream"
