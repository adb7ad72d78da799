"""A certificate for tests with TLS, made with ``openssl``."""

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest


def server_context(certificate: Path) -> ssl.SSLContext:
    """Return the TLS context of a server on 127.0.0.1; write the certificate for its clients.

    Skips the test where ``openssl`` is not installed.
    """
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    key = certificate.with_suffix(".key")
    command = (
        "openssl req -x509 -nodes -days 1 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1"
        " -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
        " -addext keyUsage=critical,digitalSignature,keyCertSign"
    )
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context
