"""`iotedge check`: the real one's checks, in its order. What the stand-in does not look at says so."""

import json
import os
import socket
import ssl
import subprocess
import time
import urllib.parse

import iotedge
import settings
import superconfig
import wire
import x509
from docker import Engine, EngineError

ROOT = settings.ROOT
DAEMON_JSON = f"{ROOT}/etc/docker/daemon.json"


class Bad(Exception):
    """A check's outcome other than ok: warning, error, fatal, skipped or ignored."""

    def __init__(self, result, *details):
        super().__init__(*details)
        self.result = result


def super_config():
    try:
        with open(iotedge.CONFIG, encoding="utf-8") as file:
            return superconfig.parse(file.read())
    except (OSError, UnicodeDecodeError, superconfig.ConfigError) as error:
        raise Bad("fatal", f"config.toml: {error}") from None


def well_formed(service):
    def check():
        try:
            settings.load(service)
        except settings.SettingsError as error:
            raise Bad("fatal", str(error)) from None

    return check


def up_to_date(services):
    def check():
        try:
            written = os.stat(iotedge.CONFIG).st_mtime
            old = [at for at in services if os.stat(iotedge.super_file(at)).st_mtime < written]
        except OSError as error:
            raise Bad("error", str(error)) from None
        if old:
            raise Bad("warning", f"config.toml is newer than the configuration of {', '.join(old)}: apply it")

    return check


def hostname():
    name, machine = super_config()["hostname"], socket.gethostname()
    try:
        superconfig.check_hostname(name)
    except superconfig.ConfigError as error:
        raise Bad("error", str(error)) from None
    if name != machine and not name.startswith(f"{machine}.") and not name[0].isdigit() and ":" not in name:
        raise Bad("error", f"hostname {name} is neither this machine's ({machine}) nor begins with it")


def files():
    given = super_config()["provisioning"].get("attestation", {})
    if given.get("method") != "x509" or isinstance(given["identity_cert"], dict):
        raise Bad("ignored")
    return settings.file_path(given["identity_cert"]), settings.file_path(given["identity_pk"])


def read_as(user, path):
    """Reads a file as the service's user does."""
    command = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "cat", path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Bad("error", f"{user} cannot read {path}: {done.stderr.strip()}")
    return done.stdout


def leaf():
    try:
        return x509.Leaf(read_as("aziotcs", files()[0]))
    except x509.CertificateError as error:
        raise Bad("error", str(error)) from None


def expiry():
    found, now = leaf(), time.time()
    if not found.begins <= now:
        raise Bad("error", "the identity certificate is not valid yet")
    if found.ends <= now:
        raise Bad("error", "the identity certificate has expired")
    if found.ends - now < 7 * 86400:
        raise Bad("warning", "the identity certificate expires within a week")


def preloaded():
    if not os.path.exists(files()[0]):
        raise Bad("error", f"{files()[0]} does not exist")


def match_keys():
    chain, key = read_as("aziotcs", files()[0]), read_as("aziotks", files()[1])
    held = os.memfd_create("pair", os.MFD_CLOEXEC)
    try:
        os.write(held, f"{chain}\n{key}\n".encode())
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(f"/proc/self/fd/{held}", password=lambda: "")
    except ssl.SSLError as error:
        raise Bad("error", f"certificate and private key do not match: {error}") from None
    finally:
        os.close(held)


def running(service):
    def check():
        if iotedge.unit_state(f"aziot-{service}.service") != "active" and (
            iotedge.unit_state(f"aziot-{service}.socket") != "active"
        ):
            raise Bad("error", f"aziot-{service} is down")

    return check


def connect_dps():
    provisioning = super_config()["provisioning"]
    if provisioning["source"] != "dps":
        raise Bad("ignored")
    parts = urllib.parse.urlsplit(provisioning["global_endpoint"])
    try:
        stream = socket.create_connection((parts.hostname, parts.port or 443), timeout=30)
        ssl.create_default_context().wrap_socket(stream, server_hostname=parts.hostname).close()
    except OSError as error:
        raise Bad("error", f"{parts.hostname}: {error}") from None


def edged_config():
    try:
        return settings.load("edged")
    except settings.SettingsError as error:
        raise Bad("fatal", str(error)) from None


def engine():
    found = Engine(edged_config()["moby_runtime"]["uri"])
    try:
        found.check_version()
    except EngineError as error:
        raise Bad("fatal", str(error)) from None
    return found


def management():
    try:
        wire.ask(iotedge.MGMT, "GET", "/modules")
    except (OSError, wire.WireError) as error:
        raise Bad("error", f"{iotedge.MGMT}: {error}") from None


def daemon_json():
    try:
        with open(DAEMON_JSON, encoding="utf-8") as file:
            return json.load(file)
    except OSError:
        return {}
    except ValueError as error:
        raise Bad("error", f"{DAEMON_JSON}: {error}") from None


def engine_dns():
    if not daemon_json().get("dns"):
        raise Bad("warning", f"{DAEMON_JSON} has no dns: name resolution in containers may fail")


def logrotate():
    found = daemon_json()
    options = found.get("log-opts", {})
    if found.get("log-driver") != "journald" and not {"max-size", "max-file"} <= set(options):
        raise Bad("warning", f"{DAEMON_JSON} limits no container logs: they may fill the disk")


def agent_storage():
    try:
        container = engine().container("edgeAgent")
    except EngineError as error:
        raise Bad("error", str(error)) from None
    if container is None:
        raise Bad("error", "there is no container edgeAgent")
    env = dict(at.partition("=")[::2] for at in container["Config"].get("Env") or [])
    storage = env.get("storageFolder", "/tmp")
    if not any(mount["Destination"] == storage for mount in container.get("Mounts", [])):
        raise Bad("warning", f"edgeAgent's {storage} is not mounted from the host")


def not_here(reason):
    def check():
        raise Bad("skipped", reason)

    return check


def ignored():
    raise Bad("ignored")


IDENTITY = ["keyd", "certd", "tpmd", "identityd"]
INTERNET = not_here("asks the internet for the newest version")
NO_IMAGE = not_here("needs the diagnostics image")
NO_HUB = not_here("the hub is not known before DPS has assigned it; not part of the stand-in")
CHECKS = (
    [(f"{at}-config-well-formed", well_formed(at)) for at in IDENTITY]
    + [
        ("configs-up-to-date", up_to_date(IDENTITY)),
        ("hostname", hostname),
        ("aziot-version", INTERNET),
        ("host-local-time", not_here("asks a time server; not part of the stand-in")),
        ("identity-certificate-expiry", expiry),
        ("est-identity-and-bootstrap-certificate-expiry", ignored),
        ("local-ca-certificate-expiry", ignored),
        ("certs-preloaded", preloaded),
    ]
    + [(f"{at}-running", running(at)) for at in IDENTITY]
    + [
        ("certs-read", leaf),
        ("key-pairs-read", lambda: read_as("aziotks", files()[1]) and None),
        ("est-server-https", ignored),
        ("certs-match-private-keys", match_keys),
    ]
    + [(f"host-connect-iothub-{at}", NO_HUB) for at in ("amqp", "https", "mqtt")]
    + [
        ("host-connect-dps-endpoint", connect_dps),
        ("aziot-edged-config-well-formed", well_formed("edged")),
        ("config-up-to-date", up_to_date(["edged"])),
        ("container-engine-uri", engine),
        ("parent_hostname", ignored),
        ("container-resolve-parent-hostname", ignored),
        ("connect-management-uri", management),
        ("aziot-edge-version", INTERNET),
        ("container-local-time", NO_IMAGE),
        ("container-engine-dns", engine_dns),
        ("container-engine-ipv6", ignored),
        ("container-engine-logrotate", logrotate),
        ("edge-agent-storage-mounted-from-host", agent_storage),
        ("edge-hub-storage-mounted-from-host", not_here("the stand-in has no edgeHub")),
        ("check-agent-image", not_here("asks the registry; not part of the stand-in")),
        ("proxy-settings", not_here("not part of the stand-in")),
    ]
    + [
        (f"container-{kind}connect-upstream-{at}", NO_IMAGE)
        for kind in ("default-", "")
        for at in ("amqp", "https", "mqtt")
    ]
)


def outcome(check):
    try:
        check()
    except Bad as bad:
        return {"result": bad.result} | ({"details": list(bad.args)} if bad.args else {})
    return {"result": "ok"}


MARKS = {"ok": "√", "warning": "‼", "error": "×", "fatal": "×", "skipped": "-", "ignored": " "}


def main(verb, arguments):
    match arguments:
        case [] | ["-o" | "--output", "text"]:
            as_json = False
        case ["-o" | "--output", "json"]:
            as_json = True
        case _:
            raise iotedge.CommandError(iotedge.USAGE)
    if verb == "check-list":
        names = [name for name, _ in CHECKS]
        print(json.dumps(names) if as_json else "\n".join(names))
        return 0
    if os.geteuid() != 0:
        raise iotedge.CommandError("this command must be run as root")
    results = {}
    for name, check in CHECKS:
        results[name] = outcome(check)
        if not as_json:
            print(f"{MARKS[results[name]['result']]} {name} - {results[name]['result']}", flush=True)
            for detail in results[name].get("details", []):
                print(f"    {detail}")
    if as_json:
        print(json.dumps({"checks": {name: {"result": result} for name, result in results.items()}}))
    return 1 if any(at["result"] in ("error", "fatal") for at in results.values()) else 0
