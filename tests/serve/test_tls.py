"""TLS: the version floor, and a certificate that is renewed while connections go on."""

import asyncio
import os
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from genrecall.errors import ConfigError
from genrecall.serve.http.tls import Certificate

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl on this machine")


def _make(directory: Path, name: str) -> tuple[Path, Path]:
    chain, key = directory / "chain.pem", directory / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-keyout", str(key), "-out", str(chain), "-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    for file in (chain, key):
        status = file.stat()
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + len(name)))
    return chain, key


def _client(chain: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=chain.read_text())


def test_a_renewed_certificate_is_taken_and_old_connections_go_on(tmp_path: Path) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line)
        writer.close()

    async def scenario() -> None:
        chain, key = _make(tmp_path, "first")
        old = _client(chain)
        certificate = Certificate(chain, key)
        server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=certificate.context)
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=old, server_hostname="localhost")
        assert not certificate.refresh()
        _make(tmp_path, "second one")
        assert certificate.refresh()
        writer.write(b"still here\n")
        assert await reader.readline() == b"still here\n"
        new, other = await asyncio.open_connection("127.0.0.1", port, ssl=_client(chain), server_hostname="localhost")
        other.write(b"hello\n")
        assert await new.readline() == b"hello\n"
        with pytest.raises(ssl.SSLError):
            await asyncio.open_connection("127.0.0.1", port, ssl=old, server_hostname="localhost")
        key.write_text("nonsense")
        assert not certificate.refresh()
        for open_writer in (writer, other):
            open_writer.close()
        server.close()

    asyncio.run(scenario())


def test_old_versions_are_refused(tmp_path: Path) -> None:
    assert Certificate(*_make(tmp_path, "x")).context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_files_that_make_no_pair_are_refused(tmp_path: Path) -> None:
    chain, key = _make(tmp_path, "x")
    key.write_text("nonsense")
    with pytest.raises(ConfigError, match="certificate cannot be used"):
        Certificate(chain, key)
    with pytest.raises(ConfigError):
        Certificate(tmp_path / "none", key)
