"""An HTTP proxy as a process of its own: it only tunnels, and says what it is asked.

Run as `python proxy_process.py LOGIN [CERTIFICATE]`. A request without that login, if there is one,
is answered with 407. With a file of certificate and key, callers speak TLS to it. Each line that it
prints is JSON: first its port, then the head of each request.
"""

import asyncio
import base64
import json
import ssl
import sys
from contextlib import suppress


async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """Passes on what comes until the source ends, and closes the target."""
    with suppress(OSError):
        while data := await source.read(65536):
            target.write(data)
            await target.drain()
    target.close()


async def main(login: str, certificate: str = "") -> None:
    wanted = f"Basic {base64.b64encode(login.encode()).decode()}"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.split(": ", 1) for line in lines if line)
            print(json.dumps({"asked": first, "headers": headers}), flush=True)
            method, place, _ = first.split(" ")
            if login and headers.get("Proxy-Authorization") != wanted:
                writer.write(b"HTTP/1.1 407 X\r\nContent-Length: 0\r\n\r\n")
            elif method != "CONNECT":
                writer.write(b"HTTP/1.1 405 X\r\nContent-Length: 0\r\n\r\n")
            else:
                _, _, port = place.rpartition(":")
                # Every name is this machine: nobody has to resolve one.
                far = await asyncio.open_connection("127.0.0.1", int(port))
                writer.write(b"HTTP/1.1 200 X\r\n\r\n")
                await asyncio.gather(pump(reader, far[1]), pump(far[0], writer))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if certificate else None
    if tls is not None:
        tls.load_cert_chain(certificate)
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
