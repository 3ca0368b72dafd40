"""aziot-certd: certificates, by id: preloaded from files, issued by an EST server, or signed by their own key (what edged's
authority is unless the configuration has one). Runs as aziotcs, whose access it is that counts."""

import os
import time

import journal
import renewal
import serve
import settings
import wire
import x509
from serve import Refusal, log

KEYD = settings.ROOT + "/run/aziot/keyd.sock"
HOME = settings.ROOT + "/var/lib/aziot/certd/certs"
# Between two looks for a certificate that is not there yet, seconds.
WAIT = 5


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
    if how is None or how.get("method") not in ("est", "self_signed"):
        raise Refusal(404, f"nobody issues the certificate {name}")
    if how["method"] == "self_signed":
        return sign(name, how, csr, est)
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


def sign(name, how, csr, est):
    """An authority of its own, as the real one's `self_signed`: for the request's name, by the request's own key."""
    try:
        pem = est.self_signed(csr, key(how["key"]), how["expiry_days"])
    except (est.EstError, wire.WireError) as error:
        raise Refusal(500, f"the certificate {name} cannot be signed: {error}") from None
    keep(name, pem)
    log(f"signed the certificate {name}")
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


def renew_identity(config, how):
    """A new `est-id`, for the old one. As the real one shows it: the leaf alone, without its intermediate."""
    import est

    name, kept = how["identity_cert"], how["identity_pk"]
    old = load(config, name)["pem"]
    client = (old[: old.index(x509.END) + len(x509.END)] + "\n", key(kept))
    fresh = f"{kept}-temp"
    made = wire.ask(KEYD, "POST", f"/keypair/{fresh}", {"preferred": "ec-p256"})["pem"]
    issued = est.Server(how["url"], trusted(config), None, client).enrol(est.request(made, how["common_name"]))
    wire.ask(KEYD, "POST", f"/move/{fresh}", {"to": kept})
    keep(name, issued)


def watch(config):
    """Certificates of certd's own that have a policy."""
    for how in config.get("cert_issuance", {}).values():
        if "identity_auto_renew" not in how or "identity_cert" not in how:
            continue
        name = how["identity_cert"]

        def present(name=name):
            # It is made when it is first needed.
            while not os.path.exists(place(name)):
                time.sleep(WAIT)
            return load(config, name)["pem"]

        renewal.watch(name, how["identity_auto_renew"], present, lambda how=how: renew_identity(config, how))


def imported(config, name, pem):
    """A certificate from elsewhere, in place of the one that was there."""
    try:
        x509.Leaf(pem)
    except x509.CertificateError as error:
        raise Refusal(400, str(error)) from None
    if name in config.get("preloaded_certs", {}):
        raise Refusal(400, f"certificate {name} was preloaded from a file, and is not replaced")
    keep(name, pem)
    return {"pem": pem}


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
        if method == "PUT":
            if not settings.allowed(config, uid, "certs", name):
                raise Refusal(403, f"uid {uid} may not replace the certificate {name}")
            return imported(config, name, str((body or {}).get("pem", "")))
        raise Refusal(404, "no such resource")

    return handle


def main():
    journal.start(settings.VERSION)
    try:
        config = settings.load("certd")
    except settings.SettingsError as error:
        return journal.fatal(error, "could not read config")
    watch(config)
    serve.run(handler(config))
