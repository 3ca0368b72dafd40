"""aziot-certd: certificates, by id: preloaded from files, or issued by an EST server. Runs as aziotcs, whose access it is
that counts."""

import os

import serve
import settings
import wire
from serve import Refusal, log

KEYD = settings.ROOT + "/run/aziot/keyd.sock"
HOME = settings.ROOT + "/var/lib/aziot/certd/certs"


def read(path):
    with open(path, encoding="ascii") as file:
        return file.read()


def place(name):
    return f"{HOME}/{''.join(at for at in name if at.isalnum())}.cer"


def load(config, name):
    url = config.get("preloaded_certs", {}).get(name)
    path = place(name) if url is None else settings.file_path(url)
    try:
        return {"pem": read(path)}
    except FileNotFoundError:
        raise Refusal(404, f"there is no certificate {name}") from None
    except (OSError, ValueError) as error:
        raise Refusal(500, f"certificate {name} cannot be read: {error}") from None


def keep(name, pem):
    os.makedirs(HOME, mode=0o755, exist_ok=True)
    path = place(name)
    with open(f"{path}.new", "w", encoding="ascii") as file:
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())
    os.rename(f"{path}.new", path)


def trusted(config):
    names = config.get("cert_issuance", {}).get("est", {}).get("trusted_certs", [])
    return "".join(load(config, name)["pem"] for name in names)


def key(name):
    return wire.ask(KEYD, "GET", f"/keypair/{name}")["pem"]


def issue(config, name, csr):
    import est  # reads ssl, which costs a second on an emulated machine: only for devices that enrol

    how = config.get("cert_issuance", {}).get(name)
    if how is None or how.get("method") != "est":
        raise Refusal(404, f"nobody issues the certificate {name}")
    basic = (how["username"], how["password"]) if "username" in how else None
    try:
        client = identity(config, how, est) if "bootstrap_identity_cert" in how else None
        pem = est.Server(how["url"], trusted(config), basic, client).enrol(csr)
    except est.EstError as error:
        log(f"EST: {error}")
        raise Refusal(500, f"EST: {error}") from None
    keep(name, pem)
    log(f"{how['url']} issued the certificate {name}")
    return {"pem": pem}


def identity(config, how, est):
    """The certificate for EST itself: issued once, for the bootstrap certificate."""
    name = how["identity_cert"]
    try:
        return load(config, name)["pem"], key(how["identity_pk"])
    except (Refusal, wire.WireError):
        pass
    pem = load(config, how["bootstrap_identity_cert"])["pem"]
    bootstrap = (pem, key(how["bootstrap_identity_pk"]))
    made = wire.ask(KEYD, "POST", f"/keypair/{how['identity_pk']}", {"preferred": "ec-p256"})["pem"]
    server = est.Server(how["url"], trusted(config), None, bootstrap)
    issued = server.enrol(est.request(made, how["common_name"]))
    keep(name, issued)
    return issued, made


def handler(config):
    def handle(method, path, body, uid):
        kind, _, name = path.strip("/").partition("/")
        if kind != "certificates" or not name or "/" in name:
            raise Refusal(404, "no such resource")
        if method == "GET":
            return load(config, name)
        if method == "POST":
            if not settings.allowed(config, uid, "certs", name):
                raise Refusal(403, f"uid {uid} may not have the certificate {name} issued")
            return issue(config, name, str((body or {}).get("csr", "")))
        raise Refusal(404, "no such resource")

    return handle


def main():
    try:
        config = settings.load("certd")
    except settings.SettingsError as error:
        serve.log(str(error))
        return settings.NO_CONFIG
    serve.run(handler(config))
