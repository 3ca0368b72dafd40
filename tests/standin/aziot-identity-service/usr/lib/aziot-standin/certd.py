"""aziot-certd: certificates, by id. Runs as aziotcs, whose access it is that counts."""

import serve
import settings
from serve import Refusal


def load(config, name):
    url = config.get("preloaded_certs", {}).get(name)
    if url is None:
        raise Refusal(404, f"there is no certificate {name}")
    try:
        with open(settings.file_path(url), encoding="ascii") as file:
            return {"pem": file.read()}
    except (OSError, ValueError) as error:
        raise Refusal(500, f"certificate {name} cannot be read: {error}") from None


def handler(config):
    def handle(method, path, _body, _uid):
        kind, _, name = path.strip("/").partition("/")
        if (method, kind) == ("GET", "certificates") and name:
            return load(config, name)
        raise Refusal(404, "no such resource")

    return handle


def main():
    try:
        config = settings.load("certd")
    except settings.SettingsError as error:
        serve.log(str(error))
        return settings.NO_CONFIG
    serve.run(handler(config))
