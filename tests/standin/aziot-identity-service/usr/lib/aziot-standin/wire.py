"""HTTP/1.1, as little of it as the stand-in speaks: one request a connection, over any stream socket.

The standard library's client and server cost a second of imports on an emulated machine; this costs none.
"""

import json
import socket

MAX_BODY = 16 << 20
MAX_HEAD = 64 << 10


class WireError(Exception):
    """The other side does not speak HTTP as it should, or not at all."""


def connect_unix(path, timeout=60):
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    stream.settimeout(timeout)
    stream.connect(path)
    return stream


def wake(path):
    """Has systemd start the service behind a socket, for it will be asked soon."""
    try:
        connect_unix(path).close()
    except OSError:
        pass  # asking will say it better


def read_head(source):
    lines = []
    size = 0
    while True:
        line = source.readline(MAX_HEAD)
        size += len(line)
        if not line.endswith(b"\n") or size > MAX_HEAD:
            raise WireError("the head of the message is incomplete or too long")
        line = line.rstrip(b"\r\n").decode("latin-1")
        if not line:
            break
        lines.append(line)
    if not lines:
        raise WireError("the message has no head")
    headers = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon:
            raise WireError("a header has no colon")
        headers[name.strip().lower()] = value.strip()
    return lines[0], headers


def read_body(source, headers, until_end):
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return read_chunks(source)
    if "content-length" in headers:
        text = headers["content-length"]
        if not text.isdigit() or int(text) > MAX_BODY:
            raise WireError("bad content-length")
        body = source.read(int(text))
        if len(body) != int(text):
            raise WireError("the body is incomplete")
        return body
    return source.read(MAX_BODY) if until_end else b""


def read_chunks(source):
    body = b""
    while True:
        size = source.readline(MAX_HEAD).split(b";")[0].strip()
        try:
            size = int(size, 16)
        except ValueError:
            raise WireError("bad chunk") from None
        if size < 0 or len(body) + size > MAX_BODY:
            raise WireError("the body is too long")
        chunk = source.read(size)
        if len(chunk) != size:
            raise WireError("the body is incomplete")
        source.readline(MAX_HEAD)
        if size == 0:
            return body
        body += chunk


def request(stream, method, target, host="localhost", body=None, headers=None):
    """Sends one request and closes the stream; the answer's status and body (JSON decoded where it is JSON)."""
    data = None if body is None else json.dumps(body).encode()
    headers = headers or {}
    if data is not None:
        headers = {"Content-Type": "application/json"} | headers
    status, _, answer = exchange(stream, method, target, host, data, headers)
    return status, decode(answer)


def exchange(stream, method, target, host, data, headers):
    """As `request`, with bytes both ways; also the answer's content type."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", "Connection: close", "User-Agent: aziot-standin"]
    if data is not None or method in ("POST", "PUT"):
        lines += [f"Content-Length: {len(data or b'')}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    try:
        stream.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + (data or b""))
        with stream.makefile("rb") as source:
            first, answer_headers = read_head(source)
            parts = first.split(" ", 2)
            if len(parts) < 2 or not parts[1].isdigit():
                raise WireError("bad status line")
            status = int(parts[1])
            empty = method == "HEAD" or status in (204, 304)
            answer = b"" if empty else read_body(source, answer_headers, True)
    finally:
        stream.close()
    return status, answer_headers.get("content-type", ""), answer


def decode(data):
    try:
        return json.loads(data) if data else None
    except ValueError:
        return data.decode("utf-8", "replace")


def ask(path, method, target, body=None, timeout=600):
    """One request to a service on a Unix socket; raises WireError unless the answer is 2xx."""
    status, answer = request(connect_unix(path, timeout), method, target, body=body)
    if not 200 <= status < 300:
        message = answer.get("message", answer) if isinstance(answer, dict) else answer
        raise WireError(f"{method} {target}: {status}: {message}")
    return answer
