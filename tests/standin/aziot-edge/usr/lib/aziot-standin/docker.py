"""The container engine's API, over its Unix socket."""

import urllib.parse

import wire

API = "1.41"
# The label of every container that the runtime makes.
OWNER = "net.azure-devices.edge.owner"


class EngineError(Exception):
    """The engine refuses or is not there."""


def number(version):
    try:
        major, minor = version.split(".")[:2]
        return int(major), int(minor)
    except (AttributeError, ValueError):
        raise EngineError(f"the engine's API version {version!r} cannot be read") from None


class Engine:
    def __init__(self, uri):
        self.path = uri.removeprefix("unix://")

    def call(self, method, target, body=None, good=(), timeout=600):
        try:
            status, answer = wire.request(wire.connect_unix(self.path, timeout), method, target, body=body)
        except (OSError, wire.WireError) as error:
            raise EngineError(f"the engine at {self.path} does not answer: {error}") from None
        if not (200 <= status < 300 or status in good):
            message = answer.get("message", answer) if isinstance(answer, dict) else answer
            raise EngineError(f"{method} {target}: {status}: {message}")
        return status, answer

    def api(self, method, target, body=None, good=()):
        return self.call(method, f"/v{API}{target}", body, good)

    def check_version(self):
        """The client speaks one version of the API and does not negotiate."""
        _, answer = self.call("GET", "/version")
        newest, oldest = answer.get("ApiVersion"), answer.get("MinAPIVersion", "1.12")
        if not number(oldest) <= number(API) <= number(newest):
            raise EngineError(f"client version {API} is not within the engine's {oldest} to {newest}")
        return answer

    def has_image(self, image):
        status, _ = self.api("GET", f"/images/{image}/json", good=(404,))
        return status == 200

    def pull(self, image):
        name, colon, tag = image.rpartition(":")
        if not colon or "/" in tag:
            name, tag = image, "latest"
        query = urllib.parse.urlencode({"fromImage": name, "tag": tag})
        _, answer = self.api("POST", f"/images/create?{query}")
        # Progress comes as one JSON object a line; an error can be the last of them, after status 200.
        if '"error"' in str(answer):
            raise EngineError(f"pulling {image} failed: {str(answer)[-300:]}")

    def ensure_network(self, network):
        """A bridge of this name, where there is none."""
        status, _ = self.api("GET", f"/networks/{network}", good=(404,))
        if status == 404:
            body = {"Name": network, "CheckDuplicate": True, "Driver": "bridge"}
            self.api("POST", "/networks/create", body, good=(409,))

    def container(self, name):
        status, answer = self.api("GET", f"/containers/{name}/json", good=(404,))
        return answer if status == 200 else None

    def owned(self):
        """The modules' containers: those that the runtime made."""
        return [at for at in self.containers() if OWNER in (at.get("Labels") or {})]

    def remove(self, name):
        self.api("DELETE", f"/containers/{name}?force=true", good=(404,))

    def create(self, name, body):
        self.api("POST", f"/containers/create?name={name}", body)

    def start(self, name):
        self.api("POST", f"/containers/{name}/start", good=(304,))

    def stop(self, name, seconds=10):
        self.api("POST", f"/containers/{name}/stop?t={seconds}", good=(304, 404))

    def containers(self):
        return self.api("GET", "/containers/json?all=true")[1] or []
