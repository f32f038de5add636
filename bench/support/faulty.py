"""A registry of static files on loopback whose connections break or crawl, as told. A program of its own, so
that it has a processor's time of its own: `faulty.py DIRECTORY MANIFEST KIND BYTES`; says its port.

KIND is `none`; `reset`, which breaks each connection when it has brought so many bytes; or `drop`, which has
the first connection of a large blob go on with 20 KB/s after so many."""

import fcntl
import os
import re
import socket
import struct
import sys
import termios
import threading
import time
from pathlib import Path

# Answers longer than this are those of layers.
LARGE = 1 << 20

# What a connection that crawls brings, in bytes per second, and how often.
CRAWL, CRAWLS_PER_SECOND = 20_000, 10

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"


class Faulty:
    """All connections."""

    def __init__(self, directory: Path, manifest: str, kind: str, count: int):
        self.blobs, self.manifest, self.kind, self.count = directory / "blobs/sha256", manifest, kind, count
        self.lock, self.has_dropped = threading.Lock(), False

    def serve(self, connection: socket.socket) -> None:
        """Answers one request after the other, until the connection ends."""
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sent = 0
        try:
            while head := read_head(connection):
                sent += self.answer(connection, head, sent)
        except OSError:
            pass
        finally:
            connection.close()

    def answer(self, connection: socket.socket, head: bytes, before: int) -> int:
        """Answers one request; how many bytes of a layer that took."""
        name = re.search(rb"sha256:([0-9a-f]{64}) ", head)
        kind = "application/octet-stream" if b"/blobs/" in head else MANIFEST_TYPE
        with open(self.blobs / (name[1].decode() if name else self.manifest), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            start, end, status, fields = 0, size, "200 OK", ""
            if asked := re.search(rb"\r\n[Rr]ange: bytes=(\d+)-(\d*)", head):
                start, end = int(asked[1]), min(int(asked[2] or size - 1) + 1, size)
                status, fields = "206 Partial Content", f"Content-Range: bytes {start}-{end - 1}/{size}\r\n"
            answer = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{fields}Content-Length: {end - start}\r\n\r\n"
            connection.sendall(answer.encode())
            if size < LARGE:
                self.send(connection, file, start, end)
                return 0
            if self.kind == "reset" and before + end - start >= self.count:
                self.send(connection, file, start, start + self.count - before)
                # A reset takes along what is not acknowledged, and the connection is to bring all of it.
                while unacknowledged(connection) > 0:
                    time.sleep(0.0002)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()
                raise OSError("as told")
            if self.kind == "drop" and self.is_first():
                start = self.send(connection, file, start, min(start + self.count, end))
                while start < end:
                    start = self.send(connection, file, start, min(start + CRAWL // CRAWLS_PER_SECOND, end))
                    time.sleep(1 / CRAWLS_PER_SECOND)
            self.send(connection, file, start, end)
            return end - start

    def is_first(self) -> bool:
        """Whether nobody asked this before."""
        with self.lock:
            first, self.has_dropped = not self.has_dropped, True
        return first

    @staticmethod
    def send(connection: socket.socket, file, start: int, end: int) -> int:
        """Sends these bytes of a file, and returns where they end."""
        while start < end:
            start += os.sendfile(connection.fileno(), file.fileno(), start, end - start)
        return end


def unacknowledged(connection: socket.socket) -> int:
    """Bytes that the peer's kernel has not acknowledged (tcp(7), SIOCOUTQ)."""
    return struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, b"\0\0\0\0"))[0]


def read_head(connection: socket.socket) -> bytes:
    """A request's head; nothing at the end of the connection."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        more = connection.recv(1 << 16)
        if not more:
            return b""
        head += more
    return head


def main() -> None:
    directory, manifest, kind, count = sys.argv[1:]
    faulty = Faulty(Path(directory), manifest, kind, int(count))
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    print(listener.getsockname()[1], flush=True)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=faulty.serve, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    main()
