"""aziot-tpmd: there is no TPM."""

import journal
import serve
import settings
from serve import Refusal


def handle(_method, _path, _body, _uid):
    raise Refusal(500, "there is no TPM")


def main():
    journal.start(settings.VERSION)
    try:
        settings.load("tpmd")
    except settings.SettingsError as error:
        return journal.fatal(error, "could not read config")
    serve.run(handle)
