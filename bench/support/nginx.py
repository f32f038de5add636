"""nginx as a registry of static files, on loopback: http, https, and http with a cap for each
connection, all at once."""

import http.client
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

from images import MANIFEST_TYPE, TAG
from measure import Failure

# How long it may take to start, in seconds.
PATIENCE = 20

MODES = ("http", "https", "capped")


class Nginx:
    """A running nginx. A context: it ends with it."""

    def __init__(self, images: list, directory: Path, rate: int):
        """Serves `images`; `rate` is the cap, in bytes per second."""
        self.directory = directory
        self.ca = directory / "tls/trust/ca.crt"
        if not self.ca.exists():
            make_certificates(directory / "tls")
        self.ports = dict(zip(MODES, free_ports(len(MODES))))
        configuration = directory / "nginx.conf"
        configuration.write_text(configure(images, directory, self.ports, rate))
        # Should this process be killed, nginx must not outlive it.
        command = ["setpriv", "--pdeathsig", "TERM", program(), "-e", "stderr"]
        self.log = directory / "nginx.log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [*command, "-p", directory, "-c", configuration],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def __enter__(self):
        deadline = time.monotonic() + PATIENCE
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise Failure(f"nginx does not start:\n{self.log.read_text()}")
            time.sleep(0.02)
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def host(self, mode: str) -> str:
        """The first part of a reference."""
        return f"127.0.0.1:{self.ports[mode]}"

    def answers(self) -> bool:
        """Whether it serves. It holds all ports before it answers on any."""
        connection = http.client.HTTPConnection(self.host("http"), timeout=1)
        try:
            connection.request("GET", "/v2/")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()


def version() -> str:
    """As in `nginx/1.22.1`."""
    said = subprocess.run([program(), "-v"], capture_output=True, text=True, check=True).stderr
    return said.strip().rsplit(" ", 1)[-1]


def program() -> str:
    """nginx lives in sbin, which an ordinary user's PATH leaves out."""
    found = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/local/sbin:/usr/sbin:/sbin")
    if not found:
        raise Failure("nginx is missing: run scripts/setup")
    return found


def configure(images: list, directory: Path, ports: dict, rate: int) -> str:
    """As people run it: a worker for each core, sendfile, keep-alive. Its cap is one for each
    request, which is to say for each connection."""
    temporary = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    return f"""
daemon off;
{"user root;" if os.geteuid() == 0 else ""}
worker_processes auto;
pid {directory}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
    {" ".join(f"{name}_temp_path {directory}/{name};" for name in temporary)}
    access_log off;
    sendfile on;
    tcp_nopush on;
    ssl_certificate {directory}/tls/server.crt;
    ssl_certificate_key {directory}/tls/server.key;
    ssl_protocols TLSv1.3;
    types {{ }}
    server {{
        listen 127.0.0.1:{ports["http"]} backlog=4096;
        {locations(images)}
    }}
    server {{
        listen 127.0.0.1:{ports["https"]} ssl backlog=4096;
        {locations(images)}
    }}
    server {{
        listen 127.0.0.1:{ports["capped"]} backlog=4096;
        limit_rate {rate};
        {locations(images)}
    }}
}}
"""


def locations(images: list) -> str:
    """What a registry has to answer for a pull."""
    texts = ["location = /v2/ { default_type application/json; return 200 '{}'; }"]
    for image in images:
        blobs, repository = image.directory / "blobs/sha256", image.repository
        for name in (TAG, f"sha256:{image.manifest}"):
            texts.append(
                f"location = /v2/{repository}/manifests/{name} {{ default_type {MANIFEST_TYPE}; "
                f"add_header Docker-Content-Digest sha256:{image.manifest}; "
                f"alias {blobs}/{image.manifest}; }}"
            )
        texts.append(
            f'location ~ "^/v2/{repository}/blobs/sha256:([0-9a-f]{{64}})$" '
            f"{{ default_type application/octet-stream; alias {blobs}/$1; }}"
        )
    return "\n        ".join(texts)


def make_certificates(directory: Path) -> None:
    """An authority that nobody else trusts, and its certificate for 127.0.0.1."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    names = directory / "names"
    names.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\nbasicConstraints=CA:FALSE\n")
    openssl = ["openssl", "req", "-new", *key, "-subj"]
    for command in (
        [*openssl, "/CN=ringpull bench", "-x509", "-days", "3650", "-keyout", "ca.key", "-out", "ca.new"],
        [*openssl, "/CN=127.0.0.1", "-keyout", "server.key", "-out", "server.csr"],
        ["openssl", "x509", "-req", "-in", "server.csr", "-CA", "ca.new", "-CAkey", "ca.key"]
        + ["-CAcreateserial", "-days", "3650", "-extfile", names, "-out", "server.crt"],
    ):
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Failure(f"openssl: {done.stderr}")
    # Last, so that who finds it finds all; and alone, for skopeo trusts what a directory holds.
    (directory / "trust").mkdir()
    (directory / "ca.new").rename(directory / "trust/ca.crt")


def free_ports(count: int) -> list:
    """Ports that nobody listens on at this moment."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
