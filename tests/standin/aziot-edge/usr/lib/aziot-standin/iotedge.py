"""The command `iotedge`."""

import os
import pwd
import subprocess
import sys

import settings
import superconfig
import wire
from docker import Engine, EngineError

VERSION = settings.VERSION
USERS = {"keyd": "aziotks", "certd": "aziotcs", "identityd": "aziotid", "tpmd": "aziottpm", "edged": "iotedge"}
CONFIG = settings.ROOT + "/etc/aziot/config.toml"
MGMT = settings.ROOT + "/var/run/iotedge/mgmt.sock"

# Stopped from the top, started from the bottom: sockets, then the daemon, whose start is waited for.
SERVICES = ["aziot-edged", "aziot-identityd", "aziot-keyd", "aziot-certd", "aziot-tpmd"]
SOCKETS = ["aziot-tpmd", "aziot-certd", "aziot-keyd", "aziot-identityd", "aziot-edged.workload", "aziot-edged.mgmt"]

USAGE = """usage: iotedge COMMAND

  check [-o json|text] [--iothub-hostname NAME] [--expected-aziot-version V] [--expected-aziot-edged-version V]
        [--diagnostics-image-name IMAGE]
                              look for problems of configuration and connectivity
  check-list [-o json|text]   list the checks
  config apply [-c FILE]      write the services' configuration and restart them
  list                        list the modules
  system status               show the services
  version                     show the version
"""


class CommandError(Exception):
    """The command fails with this text."""


def super_file(service):
    return f"{settings.ROOT}/etc/aziot/{service}/config.d/00-super.toml"


def users():
    found = {}
    for user in USERS.values():
        try:
            found[user] = pwd.getpwnam(user)
        except KeyError:
            raise CommandError(f"could not query {user} user information") from None
    return found


def write_for(path, text, user):
    """As the real one: the owner and mode come with the file, and a rename makes it whole."""
    descriptor = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchown(file.fileno(), user.pw_uid, user.pw_gid)
        os.fchmod(file.fileno(), 0o600)
        file.write(text)
    os.rename(f"{path}.new", path)


def ask_engine(config):
    """Where there is a previous configuration, its containers decide whether the hostname may change."""
    previous = settings.load("edged")
    try:
        engine = Engine(config["moby_runtime"]["uri"])
        engine.check_version()
        owned = engine.owned()
    except EngineError as error:
        raise CommandError(f"could not list the existing modules: {error}") from None
    if owned and previous.get("hostname") != config["hostname"]:
        raise CommandError("cannot apply config because the hostname has changed while modules exist: remove them")


def apply(path):
    if os.geteuid() != 0:
        raise CommandError("this command must be run as root")
    found = users()
    try:
        with open(path, encoding="utf-8") as file:
            parsed = superconfig.parse(file.read())
        parts = superconfig.split(parsed, {name: user.pw_uid for name, user in found.items()})
        texts = {service: superconfig.dump(part) for service, part in parts.items()}
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"could not read config file {path}: {error}") from None
    except superconfig.ConfigError as error:
        raise CommandError(str(error)) from None
    if os.path.exists(super_file("edged")):
        ask_engine(parts["edged"])
    for service, user in USERS.items():
        try:
            write_for(super_file(service), texts[service], found[user])
        except OSError as error:
            raise CommandError(f"could not write {super_file(service)}: {error}") from None
    print("Azure IoT Edge has been configured successfully!\n")
    print("Restarting service for configuration to take effect...")
    restart()
    print("Done.")


def systemctl(verb, *units):
    """Waits for the units' jobs, as the real one does; a failure is only said (in a chroot it is the normal case)."""
    done = subprocess.run(["systemctl", verb, *units], capture_output=True, text=True, check=False)
    word = {"stop": "Stopp", "start": "Start"}[verb]
    outcome = f"{word}ed!" if done.returncode == 0 else f"Failed: {done.stderr.strip()}"
    for unit in units:
        print(f"{word}ing {unit}...{outcome}", flush=True)


def restart():
    systemctl("stop", *(f"{name}.service" for name in SERVICES))
    systemctl("start", *(f"{name}.socket" for name in SOCKETS))
    systemctl("start", "aziot-edged.service")


def list_modules():
    try:
        listed = wire.ask(MGMT, "GET", "/modules/?api-version=2022-08-03")["modules"]
    except (OSError, wire.WireError) as error:
        raise CommandError(f"A module runtime error occurred: {error}") from None
    rows = [("NAME", "STATUS", "DESCRIPTION", "Config")]
    rows += [
        (at["name"], at["status"]["status"], at["status"]["description"], at["image"])
        for at in sorted(listed, key=lambda module: module["name"])
    ]
    for row in rows:
        print(f"{row[0]:<17}{row[1]:<17}{row[2]:<17}{row[3]}".rstrip())


def unit_state(unit):
    done = subprocess.run(["systemctl", "is-active", unit], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def system_status():
    print("System services:")
    for service in reversed(SERVICES):
        state = unit_state(f"{service}.service")
        if state == "inactive" and unit_state(f"{service}.socket") == "active":
            shown = "Ready"
        else:
            shown = {"active": "Running"}.get(state, f"Down - {state or 'unknown'}")
        print(f"    {service:<22}{shown}")


def config_file(arguments):
    match arguments:
        case []:
            return CONFIG
        case ["-c" | "--config-file", path]:
            return path
    raise CommandError(USAGE)


def run(arguments):
    match arguments:
        case ["config", "apply", *rest]:
            apply(config_file(rest))
        case ["list"]:
            list_modules()
        case ["system", "status"]:
            system_status()
        case ["version"] | ["--version"] | ["-V"]:
            print(f"iotedge {VERSION}")
        case ["check" | "check-list" as verb, *rest]:
            import checks  # read at need only: `config apply` is on the way to a provisioned device

            return checks.main(verb, rest)
        case _:
            raise CommandError(USAGE)
    return 0


def main(arguments):
    try:
        return run(arguments)
    except CommandError as error:
        print(error, file=sys.stderr)
        return 1
    except settings.SettingsError as error:
        print(error, file=sys.stderr)
        return 1
