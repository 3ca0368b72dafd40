"""aziot-keyd: keys, by id, for the uids that the configuration names. Runs as aziotks, whose access it is that counts."""

import base64
import hashlib
import hmac
import os
import secrets

import journal
import serve
import settings
from serve import Refusal

HOME = settings.ROOT + "/var/lib/aziot/keyd/keys"


def place(config, name):
    """Where a key is: a file that it was preloaded from, or one of the service's own."""
    url = config.get("preloaded_keys", {}).get(name)
    return f"{HOME}/{name}.pem" if url is None else settings.file_path(url)


def load(config, name):
    try:
        with open(place(config, name), encoding="ascii") as file:
            return file.read()
    except FileNotFoundError:
        raise Refusal(404, f"there is no key {name}") from None
    except (OSError, ValueError) as error:
        raise Refusal(500, f"key {name} cannot be read: {error}") from None


def create(config, name, preferred):
    """As the real one: the key if there is one, else a new one."""
    try:
        return load(config, name)
    except Refusal as refusal:
        if refusal.status != 404 or name in config.get("preloaded_keys", {}):
            raise
    import est

    if preferred not in est.KEY_KINDS:
        raise Refusal(400, f"unknown kind of key {preferred}")
    pem = est.new_key(preferred)
    keep(f"{HOME}/{name}.pem", pem.encode("ascii"))
    serve.log(f"made key {name} ({preferred})")
    return pem


def move(config, name, to):
    """A new key takes the place of the old one: what a renewal ends with."""
    if to in config.get("preloaded_keys", {}):
        raise Refusal(400, f"key {to} was preloaded from a file, and is not replaced")
    try:
        os.rename(f"{HOME}/{name}.pem", f"{HOME}/{to}.pem")
    except OSError as error:
        raise Refusal(500, f"key {name} cannot be moved: {error}") from None


def delete(config, name):
    """As in the real one, deleting a key pair deletes the file that it was preloaded from."""
    path = place(config, name)
    try:
        os.unlink(path)
    except OSError as error:
        raise Refusal(500, f"key {name} cannot be deleted: {error}") from None
    serve.log(f"deleted key {name} ({path})")


def keep(path, data):
    os.makedirs(HOME, mode=0o700, exist_ok=True)
    with open(f"{path}.new", "wb", opener=lambda file, flags: os.open(file, flags, 0o600)) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.rename(f"{path}.new", path)


def master(name):
    path = f"{HOME}/{name}.key"
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        key = secrets.token_bytes(32)
        keep(path, key)
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
        if (method, kind) == ("POST", "keypair"):
            return {"pem": create(config, name, str((body or {}).get("preferred", "")))}
        if (method, kind) == ("POST", "move"):
            to = str((body or {}).get("to", ""))
            if not settings.allowed(config, uid, "keys", to) or "/" in to or to.startswith("."):
                raise Refusal(403, f"uid {uid} may not replace key {to}")
            return move(config, name, to)
        if (method, kind) == ("DELETE", "keypair"):
            return delete(config, name)
        if (method, kind) == ("POST", "derive"):
            return derive(name, str((body or {}).get("data", "")))
        raise Refusal(404, "no such resource")

    return handle


def main():
    journal.start(settings.VERSION)
    try:
        config = settings.load("keyd")
    except settings.SettingsError as error:
        return journal.fatal(error, "could not read config")
    serve.run(handler(config))
