"""The services' configuration: /etc/aziot/SERVICE/config.d/*.toml, tables merged in the order of names."""

import os
import tomllib

ROOT = os.environ.get("STANDIN_ROOT", "")

VERSION = "0~standin"

# What aziot-edged exits with when there is no usable configuration; systemd never restarts after it. The identity services exit
# with 1, and are restarted.
NO_CONFIG = 153


class SettingsError(Exception):
    """There is no usable configuration."""


def merge(base, over):
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            merge(base[key], value)
        else:
            base[key] = value


def load(service):
    folder = f"{ROOT}/etc/aziot/{service}/config.d"
    merged = {}
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(".toml"))
        for name in names:
            with open(f"{folder}/{name}", "rb") as file:
                merge(merged, tomllib.load(file))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"could not read the configuration in {folder}: {error}") from None
    if not merged:
        raise SettingsError(f"there is no configuration in {folder}: run `iotedge config apply`")
    return merged


def allowed(config, uid, field, name):
    """May this uid use this key or certificate? Patterns end in `*`."""
    for principal in config.get("principal", []):
        if principal.get("uid") != uid:
            continue
        for pattern in principal.get(field, []):
            if pattern == name or (pattern.endswith("*") and name.startswith(pattern[:-1])):
                return True
    return False


def file_path(url):
    """The path in a file: URL."""
    if not isinstance(url, str) or not url.startswith("file:///"):
        raise SettingsError(f"{url!r} is no file:/// address")
    return ROOT + url.removeprefix("file://")
