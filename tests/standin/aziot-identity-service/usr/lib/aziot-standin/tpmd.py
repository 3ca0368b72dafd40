"""aziot-tpmd: there is no TPM."""

import serve
import settings
from serve import Refusal


def handle(_method, _path, _body, _uid):
    raise Refusal(500, "there is no TPM")


def main():
    try:
        settings.load("tpmd")
    except settings.SettingsError as error:
        serve.log(str(error))
        return settings.NO_CONFIG
    serve.run(handle)
