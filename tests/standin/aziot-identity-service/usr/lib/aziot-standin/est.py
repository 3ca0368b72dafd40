"""Enrolment over secure transport (RFC 7030), the client's side, as aziot-certd's est.rs does it: one `simpleenroll`, and
`cacerts` for the issuers. The program openssl makes and reads what Python has no library for."""

import base64
import os
import socket
import ssl
import subprocess
import urllib.parse

import wire

TIMEOUT = 30
AUTHORITY = "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,digitalSignature\n"
KEY_KINDS = {
    "ec-p256": ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
    "rsa-2048": ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
}


class EstError(Exception):
    """The server did not issue a certificate; the text says why."""


def openssl(arguments, data=b""):
    done = subprocess.run(["openssl", *arguments], input=data, capture_output=True, check=False)
    if done.returncode != 0:
        raise EstError(f"openssl {arguments[0]}: {done.stderr.decode('utf-8', 'replace').strip()}")
    return done.stdout


def new_key(kind):
    return openssl(["genpkey", *KEY_KINDS[kind]]).decode("ascii")


def request(key, common_name):
    """A PKCS#10 request in base64, signed with a key in PEM."""
    held = memory(key)
    try:
        command = ["req", "-new", "-key", f"/proc/self/fd/{held}", "-subj", f"/CN={common_name}", "-outform", "DER"]
        done = subprocess.run(["openssl", *command], capture_output=True, check=False, pass_fds=[held])
    except OSError as error:
        raise EstError(f"the request cannot be made: {error}") from None
    finally:
        os.close(held)
    if done.returncode != 0:
        raise EstError(f"the request cannot be made: {done.stderr.decode('utf-8', 'replace').strip()}")
    return base64.b64encode(done.stdout).decode("ascii")


def self_signed(csr, key, days):
    """A certificate for a request (base64), signed by the request's own key: an authority without one above it."""
    der = base64.b64decode(csr, validate=True)
    held, extensions = memory(key), memory(AUTHORITY)
    command = ["x509", "-req", "-inform", "DER", "-days", str(days), "-signkey", f"/proc/self/fd/{held}"]
    command += ["-extfile", f"/proc/self/fd/{extensions}"]
    try:
        done = subprocess.run(
            ["openssl", *command], input=der, capture_output=True, check=False, pass_fds=[held, extensions]
        )
    finally:
        os.close(held)
        os.close(extensions)
    if done.returncode != 0:
        raise EstError(done.stderr.decode("utf-8", "replace").strip())
    return done.stdout.decode("ascii")


def memory(text):
    """A file in memory, for libraries that read secrets only from paths."""
    held = os.memfd_create("secret", os.MFD_CLOEXEC)
    os.write(held, text.encode())
    os.lseek(held, 0, os.SEEK_SET)
    return held


def context(trusted, client):
    made = ssl.create_default_context(cadata=trusted) if trusted else ssl.create_default_context()
    if client:
        certificate, key = client
        held = memory(f"{certificate}\n{key}\n")
        try:
            made.load_cert_chain(f"/proc/self/fd/{held}", password=lambda: "")
        except ssl.SSLError as error:
            raise EstError(f"the bootstrap certificate and key cannot be used: {error}") from None
        finally:
            os.close(held)
    return made


class Server:
    """An EST server, and what lets this device in."""

    def __init__(self, url, trusted, basic=None, client=None):
        self.url = urllib.parse.urlsplit(url.rstrip("/"))
        self.context = context(trusted, client)
        self.headers = {}
        if basic:
            text = base64.b64encode(f"{basic[0]}:{basic[1]}".encode()).decode("ascii")
            self.headers["Authorization"] = f"Basic {text}"

    def ask(self, method, what, body=None):
        host = self.url.hostname
        try:
            stream = socket.create_connection((host, self.url.port or 443), timeout=TIMEOUT)
            stream = self.context.wrap_socket(stream, server_hostname=host)
            headers = dict(self.headers)
            if body is not None:
                headers |= {"Content-Type": "application/pkcs10", "Content-Transfer-Encoding": "base64"}
            status, kind, answer = wire.exchange(stream, method, f"{self.url.path}/{what}", host, body, headers)
        except (OSError, wire.WireError) as error:
            raise EstError(f"{host}: {error}") from None
        if status != 200 or not kind.startswith("application/pkcs7-mime"):
            raise EstError(f"{host} answered {status} ({kind or 'no content type'}) to {what}")
        return certificates(answer)

    def enrol(self, csr):
        """The issued certificate and its issuers, in PEM."""
        issued = self.ask("POST", "simpleenroll", csr.encode("ascii"))
        return issued + self.ask("GET", "cacerts")


def certificates(answer):
    try:
        der = base64.b64decode(b"".join(answer.split()), validate=True)
    except ValueError:
        raise EstError("the answer is not base64") from None
    text = openssl(["pkcs7", "-inform", "DER", "-print_certs"], der).decode("ascii", "replace")
    blocks, inside = [], False
    for line in text.splitlines():
        inside = inside or line.startswith("-----BEGIN CERTIFICATE")
        if inside:
            blocks.append(line)
        inside = inside and not line.startswith("-----END")
    if not blocks:
        raise EstError("the answer holds no certificate")
    return "\n".join(blocks) + "\n"
