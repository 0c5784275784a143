"""TLS of the data listener: version 1.2 and up, and a certificate that may be renewed while connections go on."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

from genrecall.errors import ConfigError
from genrecall.telemetry import log

_LOOK_S = 5.0


class Certificate:
    """A certificate chain with its key, as PEM files.

    Args:
        chain: the certificate, and those between it and the authority.
        key: its private key, not encrypted.

    Raises:
        ConfigError: files that do not make a pair.
    """

    def __init__(self, chain: Path, key: Path) -> None:
        self._chain, self._key = chain, key
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._stamp = self._now()
        try:
            self.context.load_cert_chain(chain, key)
        except (ssl.SSLError, OSError) as error:
            raise ConfigError(
                "the certificate cannot be used",
                seen=f"{chain}, {key}: {error}",
                allowed="PEM files of a certificate chain and its key",
                fix="correct --tls-cert and --tls-key",
            ) from None

    def refresh(self) -> bool:
        """Take the files again if they changed; new connections get the new certificate, old ones go on."""
        stamp = self._now()
        if stamp == self._stamp or None in stamp:
            return False
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self._chain, self._key)
            self.context.load_cert_chain(self._chain, self._key)
        except (ssl.SSLError, OSError) as error:
            log(
                f"the renewed certificate cannot be used, the old one stays: {error}"
            )  # or only one file is written yet
            return False
        self._stamp = stamp
        return True

    async def watch(self) -> None:
        """Refresh now and then, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_S)
            self.refresh()

    def _now(self) -> tuple[int | None, int | None]:
        return _time_of(self._chain), _time_of(self._key)


def _time_of(file: Path) -> int | None:
    return file.stat().st_mtime_ns if file.exists() else None
