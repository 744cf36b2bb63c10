"""The certificate that a listener shows; new connections get the latest one."""

import ssl
import tempfile
from pathlib import Path

from pydantic import SecretBytes


class ShownCertificate:
    """The TLS context of listeners, whose certificate may be replaced while they listen."""

    def __init__(self, lowest: ssl.TLSVersion) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = lowest
        self._shown: tuple[bytes, SecretBytes] | None = None

    @property
    def is_loaded(self) -> bool:
        """True once there is a certificate."""
        return self._shown is not None

    def show(self, chain: bytes, key: SecretBytes) -> bool:
        """Shows a certificate, both parts in PEM; returns whether it is another one than before.

        Raises SSLError if it is unusable; then the one before stays.
        """
        if (shown := (chain, key)) == self._shown:
            return False
        with tempfile.TemporaryDirectory() as folder:
            # Python's ssl module reads certificates only from files, see
            # https://github.com/python/cpython/issues/129216. Nobody else can read this folder.
            chain_file, key_file = Path(folder) / "tls.crt", Path(folder) / "tls.key"
            chain_file.write_bytes(chain)
            key_file.write_bytes(key.get_secret_value())
            # A key that does not match would leave the context without a certificate, so the pair
            # is first tried in another context.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(chain_file, key_file)
            self.context.load_cert_chain(chain_file, key_file)
        self._shown = shown
        return True
