"""aziot-keyd: keys, by id, for the uids that the configuration names. Runs as aziotks, whose access it is that counts."""

import base64
import hashlib
import hmac
import os
import secrets

import serve
import settings
from serve import Refusal

HOME = settings.ROOT + "/var/lib/aziot/keyd/keys"


def load(config, name):
    url = config.get("preloaded_keys", {}).get(name)
    if url is None:
        raise Refusal(404, f"there is no key {name}")
    path = settings.file_path(url)
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except (OSError, ValueError) as error:
        raise Refusal(500, f"key {name} cannot be read: {error}") from None


def delete(config, name):
    """As in the real one, deleting a key pair deletes the file that it was preloaded from."""
    path = settings.file_path(config.get("preloaded_keys", {}).get(name))
    try:
        os.unlink(path)
    except OSError as error:
        raise Refusal(500, f"key {name} cannot be deleted: {error}") from None
    serve.log(f"deleted key {name} ({path})")


def master(name):
    path = f"{HOME}/{name}.key"
    os.makedirs(HOME, mode=0o700, exist_ok=True)
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        key = secrets.token_bytes(32)
        with open(f"{path}.new", "wb", opener=lambda file, flags: os.open(file, flags, 0o600)) as file:
            file.write(key)
            file.flush()
            os.fsync(file.fileno())
        os.rename(f"{path}.new", path)
        return key


def derive(name, data):
    digest = hmac.new(master(name), data.encode(), hashlib.sha256).digest()
    return {"key": base64.b64encode(digest).decode()}


def handler(config):
    def handle(method, path, body, uid):
        kind, _, name = path.strip("/").partition("/")
        if not name or "/" in name or name.startswith("."):
            raise Refusal(404, "no such resource")
        if not settings.allowed(config, uid, "keys", name):
            raise Refusal(403, f"uid {uid} may not use key {name}")
        if (method, kind) == ("GET", "keypair"):
            return {"pem": load(config, name)}
        if (method, kind) == ("DELETE", "keypair"):
            return delete(config, name)
        if (method, kind) == ("POST", "derive"):
            return derive(name, str((body or {}).get("data", "")))
        raise Refusal(404, "no such resource")

    return handle


def main():
    try:
        config = settings.load("keyd")
    except settings.SettingsError as error:
        serve.log(str(error))
        return settings.NO_CONFIG
    serve.run(handler(config))
