"""An S3 server for tests, and a doorkeeper before it that counts what is asked and does it wrong on demand.

The server is moto: a real HTTP server with real conditional writes. The doorkeeper passes requests on; told so, it
drops the headers that make a write conditional, answers in place of the server, loses the server's answer, or flips a
byte of what is read. So what is tested is how our client meets a server that misbehaves, not a substitute of it.
"""

import http.client
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

LOST = "lost"  # the request is carried out and its answer never comes
Answer = tuple[int, str] | str  # (status, error code) in place of the server's, or LOST

_CONDITIONS = ("if-match", "if-none-match")


class Doorkeeper:
    """An HTTP server that passes requests on to another one."""

    def __init__(self, behind: str) -> None:
        """`behind`: http://HOST:PORT of the server."""
        self.behind = urlsplit(behind).netloc
        self.ignores_conditions = False  # a server that does not know If-Match and If-None-Match
        self.rule: Callable[[str, str], Answer | None] = lambda method, path: None  # what to do instead of passing on
        self.flips = ""  # in the answer to a GET of a path with this in it, one bit is wrong
        self.counts: Counter[str] = Counter()  # requests by method; listings are LIST
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        door = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1

            def log_message(self, format: str, *args: object) -> None:
                pass

            def pass_on(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                is_listing = self.command == "GET" and "list-type=" in self.path
                door.counts["LIST" if is_listing else self.command] += 1
                answer = door.rule(self.command, self.path)
                if isinstance(answer, tuple):
                    status, code = answer
                    text = f"<Error><Code>{code}</Code><Message>so the doorkeeper says</Message></Error>".encode()
                    self.answer(status, [("Content-Type", "application/xml")], text)
                    return
                dropped = {"host", "connection", *(_CONDITIONS if door.ignores_conditions else ())}
                headers = {name: value for name, value in self.headers.items() if name.lower() not in dropped}
                server = http.client.HTTPConnection(door.behind, timeout=30)
                server.request(self.command, self.path, body, headers)
                response = server.getresponse()
                content = response.read()
                server.close()
                if answer == LOST:
                    self.close_connection = True
                    self.connection.close()
                    return
                if door.flips and self.command == "GET" and door.flips in self.path and content:
                    content = bytes([content[0] ^ 1]) + content[1:]
                self.answer(response.status, response.getheaders(), content)

            def answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
                self.send_response_only(status)
                length = None
                for name, value in headers:
                    if name.lower() == "content-length":
                        length = value
                    elif name.lower() not in ("connection", "transfer-encoding"):
                        self.send_header(name, value)
                head = self.command == "HEAD"
                self.send_header("Content-Length", (length or "0") if head else str(len(content)))
                self.end_headers()
                if not head:
                    self.wfile.write(content)
                self.wfile.flush()

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = pass_on

        return Handler
