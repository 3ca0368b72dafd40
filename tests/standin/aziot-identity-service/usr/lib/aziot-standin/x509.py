"""As much of X.509 as is needed: a leaf certificate's common name and dates (RFC 5280, DER)."""

import base64
import datetime

COMMON_NAME = bytes.fromhex("550403")
BEGIN = "-----BEGIN CERTIFICATE-----"
END = "-----END CERTIFICATE-----"


class CertificateError(Exception):
    """This is no certificate."""


def pem_to_der(text):
    start = text.find(BEGIN)
    end = text.find(END, start)
    if start < 0 or end < 0:
        raise CertificateError("there is no PEM certificate")
    try:
        return base64.b64decode("".join(text[start + len(BEGIN) : end].split()), validate=True)
    except ValueError:
        raise CertificateError("the PEM certificate is not base64") from None


def element(data, at):
    """Tag, content and the position after it, of the DER element at a position."""
    try:
        tag, length, at = data[at], data[at + 1], at + 2
        if length & 0x80:
            count = length & 0x7F
            length, at = int.from_bytes(data[at : at + count], "big"), at + count
    except IndexError:
        raise CertificateError("the certificate ends too soon") from None
    if at + length > len(data):
        raise CertificateError("the certificate ends too soon")
    return tag, data[at : at + length], at + length


def children(data):
    at, found = 0, []
    while at < len(data):
        tag, content, at = element(data, at)
        found.append((tag, content))
    return found


def moment(tag, content):
    layout = "%y%m%d%H%M%SZ" if tag == 0x17 else "%Y%m%d%H%M%SZ"
    try:
        parsed = datetime.datetime.strptime(content.decode("ascii"), layout)
    except ValueError:
        raise CertificateError("a date cannot be read") from None
    return parsed.replace(tzinfo=datetime.timezone.utc).timestamp()


class Leaf:
    """A certificate's common name (None: it has none) and dates, seconds since 1970."""

    def __init__(self, pem):
        _, certificate, _ = element(pem_to_der(pem), 0)
        _, body, _ = element(certificate, 0)
        fields = children(body)
        # The version is optional and tagged [0]; serial, algorithm, issuer, validity and subject follow.
        fields = fields[1:] if fields and fields[0][0] == 0xA0 else fields
        if len(fields) < 5:
            raise CertificateError("the certificate lacks fields")
        dates = children(fields[3][1])
        if len(dates) != 2:
            raise CertificateError("the certificate lacks dates")
        self.begins, self.ends = (moment(tag, content) for tag, content in dates)
        self.common_name = common_name(fields[4][1])


def common_name(subject):
    for _, names in children(subject):
        for _, attribute in children(names):
            parts = children(attribute)
            if len(parts) == 2 and parts[0][1] == COMMON_NAME:
                return parts[1][1].decode("utf-8", "replace")
    return None
