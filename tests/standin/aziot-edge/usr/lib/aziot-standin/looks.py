"""What the checks of `iotedge check` look at: each ends well, or raises what it found. None knows an answer beforehand."""

import json
import os
import re
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
HUB_PORTS = (("amqp", 5671), ("https", 443), ("mqtt", 8883))
TIME_SERVER = "pool.ntp.org"
SECONDS_TO_1970 = 2_208_988_800
# Where the real one asks for the newest versions.
NEWEST = "aka.ms"


class OPTIONS:
    """What the command line says."""

    hub = expected_identity = expected_edge = None
    diagnostics = "mcr.microsoft.com/azureiotedge-diagnostics:1.6"


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


def dates(found, what):
    now = time.time()
    if not found.begins <= now:
        raise Bad("error", f"{what} is not valid yet")
    if found.ends <= now:
        raise Bad("error", f"{what} has expired")
    if found.ends - now < 7 * 86400:
        raise Bad("warning", f"{what} expires within a week")


def expiry():
    dates(leaf(), "the identity certificate")


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


def connect_hub(port):
    """TLS to the hub whose name was stated: with DPS, the configuration does not have it."""

    def check():
        if not OPTIONS.hub:
            raise Bad("skipped", "the hub is not known: state it with --iothub-hostname")
        reach(OPTIONS.hub, port)

    return check


def reach(host, port):
    try:
        stream = socket.create_connection((host, port), timeout=30)
        ssl.create_default_context().wrap_socket(stream, server_hostname=host).close()
    except OSError as error:
        raise Bad("error", f"{host}:{port}: {error}") from None


def newest(package, expected):
    """Is this the version that is expected, or, where none was stated, the newest one? The internet knows that."""

    def check():
        wanted = expected()
        if wanted is None:
            try:
                socket.create_connection((NEWEST, 443), timeout=10).close()
            except OSError as error:
                raise Bad("warning", f"{NEWEST} cannot be asked for the newest version: {error}") from None
            raise Bad("skipped", "there is no newest version of a stand-in: state one with --expected-…-version")
        command = ["dpkg-query", "--show", "--showformat=${Version}", package]
        found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        if found != wanted:
            raise Bad("warning", f"{package} {found or 'none'} is installed, {wanted} is expected")

    return check


def local_time():
    """The clock beside that of a time server (SNTP, RFC 4330)."""
    stream = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    stream.settimeout(5)
    try:
        with stream:
            stream.connect((TIME_SERVER, 123))
            stream.send(b"\x1b" + bytes(47))
            answer = stream.recv(512)
        ours = time.time()
    except OSError as error:
        raise Bad("warning", f"{TIME_SERVER} tells no time: {error}") from None
    if len(answer) < 48:
        raise Bad("warning", f"{TIME_SERVER} tells no time")
    away = int.from_bytes(answer[40:44], "big") - SECONDS_TO_1970 - ours
    if abs(away) >= 10:
        raise Bad("warning", f"the clock is {away:.0f} s away from {TIME_SERVER}'s")


def connect_dps():
    provisioning = super_config()["provisioning"]
    if provisioning["source"] != "dps":
        raise Bad("ignored")
    parts = urllib.parse.urlsplit(provisioning["global_endpoint"])
    reach(parts.hostname, parts.port or 443)


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


def storage(name):
    def check():
        try:
            container = engine().container(name)
        except EngineError as error:
            raise Bad("error", str(error)) from None
        if container is None:
            raise Bad("error", f"there is no container {name}")
        env = dict(at.partition("=")[::2] for at in container["Config"].get("Env") or [])
        folder = env.get("storageFolder", "/tmp")
        if not any(mount["Destination"] == folder for mount in container.get("Mounts", [])):
            raise Bad("warning", f"{name}'s {folder} is not mounted from the host")

    return check


def agent_image():
    """As the real one asks: the registry, even where the image is on the device."""
    image = edged_config()["agent"]["config"]["image"]
    try:
        engine().pull(image)
    except EngineError as error:
        raise Bad("error", str(error)) from None


def proxy_settings():
    """A proxy must be the same for the engine, the daemons and edgeAgent."""
    found = {"edgeAgent": edged_config()["agent"].get("env", {}).get("https_proxy", "")}
    for unit in ("docker", "aziot-edged", "aziot-identityd"):
        command = ["systemctl", "show", "--property=Environment", "--value", f"{unit}.service"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        words = [word.partition("=") for word in done.stdout.split()]
        found[unit] = next((value for name, _, value in words if name.lower() == "https_proxy"), "")
    if len(set(found.values())) > 1:
        raise Bad("warning", f"the proxies differ: {', '.join(f'{at}: {of or None}' for at, of in found.items())}")


def key_pairs():
    """Readable by the service, and of a length that services take."""
    key = read_as("aziotks", files()[1])
    done = subprocess.run(
        ["openssl", "pkey", "-noout", "-text"], input=key, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise Bad("error", f"the private key cannot be read: {done.stderr.strip()}")
    # `Private-Key: (2048 bit, 2 primes)`; a key of an elliptic curve names its curve as well.
    found = re.search(r"\((\d+) bit", done.stdout)
    bits = int(found[1]) if found else 0
    if bits < (256 if "ASN1 OID" in done.stdout else 2048):
        raise Bad("warning", f"the private key has {bits} bits only")


def issued_by(method):
    """The certificate from which another is issued: its dates; ignored where none is issued that way."""

    def check():
        issuance = super_config().get("cert_issuance", {})
        if method == "local_ca":
            given = issuance.get("local_ca", {}).get("cert")
        else:
            auth = issuance.get("est", {}).get("auth", {})
            given = auth.get("bootstrap_identity_cert") or auth.get("identity_cert")
        if given is None:
            raise Bad("ignored")
        dates(x509.Leaf(read_as("aziotcs", settings.file_path(given))), given)

    return check


def est_https():
    config = super_config()
    urls = list(config.get("cert_issuance", {}).get("est", {}).get("urls", {}).values())
    issued = config["provisioning"].get("attestation", {}).get("identity_cert")
    urls += [issued["url"]] if isinstance(issued, dict) and "url" in issued else []
    if not urls:
        raise Bad("ignored")
    plain = [url for url in urls if not url.startswith("https://")]
    if plain:
        raise Bad("warning", f"EST without encryption: {', '.join(plain)}")


def parent():
    name = super_config().get("parent_hostname")
    if name is None:
        raise Bad("ignored")
    try:
        socket.getaddrinfo(name, None)
    except OSError as error:
        raise Bad("error", f"parent_hostname {name}: {error}") from None


def ipv6():
    network = edged_config()["moby_runtime"]["network"]
    if not isinstance(network, dict) or not network.get("ipv6"):
        raise Bad("ignored")
    if not daemon_json().get("ipv6"):
        raise Bad("error", f"the modules' network is to have IPv6, and {DAEMON_JSON} does not enable it")


def in_container():
    """What only a container can see; the real one runs the diagnostics image for it."""
    image = OPTIONS.diagnostics
    if not engine().has_image(image):
        raise Bad("skipped", f"needs the image {image}, which is not on the device")
    raise Bad("skipped", f"the stand-in does not run {image}")
