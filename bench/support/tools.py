"""ringpull and its peers: how each is told to pull an image."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import measure
from images import TAG, Image
from measure import Failure, Usage
from nginx import Nginx

# Files that curl and skopeo fetch at once; ringpull's and containers/image's default.
JOBS = 6

# How long containerd may take to start, in seconds.
PATIENCE = 20


@dataclass(frozen=True)
class Job:
    """One image to be pulled from one server."""

    image: Image
    server: Nginx
    # `http`, `https` or `capped`.
    mode: str
    # An empty directory.
    destination: Path
    # An empty directory beside it, on the same disk.
    scratch: Path

    @property
    def is_plain(self) -> bool:
        """Whether it is http."""
        return self.mode != "https"

    @property
    def host(self) -> str:
        """The registry, as `HOST:PORT`."""
        return self.server.host(self.mode)

    @property
    def reference(self) -> str:
        """The image's name."""
        return f"{self.host}/{self.image.repository}:{TAG}"

    def url(self, name: str) -> str:
        """Where the blob is."""
        scheme = "http" if self.is_plain else "https"
        return f"{scheme}://{self.host}/v2/{self.image.repository}/blobs/sha256:{name}"


class Tool:
    """A program that pulls images. Each subclass says how."""

    # What it is called on the command line of the bench.
    name = ""
    # What has to be on PATH.
    programs: tuple = ()
    # Whether it compares what came with its digests. Who does not is no fair peer.
    verifies = True
    # Whether it writes all to disk before it ends.
    durable = False
    # Whether it reads the manifest and keeps it, or is told of the blobs by the bench.
    reads_manifest = True
    # What the reader has to know.
    note = ""

    def is_available(self) -> bool:
        """Whether it can be run here."""
        return all(shutil.which(program) for program in self.programs)

    def version(self) -> str:
        """As it says itself."""
        return number(measure.output([self.programs[0], "--version"]))

    def command(self, job: Job) -> list:
        """What is to be run; what that needs is prepared."""
        raise NotImplementedError

    def blobs(self, job: Job) -> Path:
        """Where the blobs are then."""
        return job.destination / "blobs/sha256"

    def run(self, job: Job, environment: dict) -> Usage:
        """Pulls, and says what it cost."""
        return measure.run(self.command(job), job.scratch / "output", environment)


class Ringpull(Tool):
    """As it comes, but for the disk."""

    def __init__(self, name: str, binary: Path, options: list, note: str):
        self.name, self.binary, self.options, self.note = name, binary, options, note
        self.durable = "--no-fsync" not in options

    def is_available(self) -> bool:
        return self.binary.exists()

    def version(self) -> str:
        return number(measure.output([self.binary, "--version"]))

    def command(self, job: Job) -> list:
        trust = ["--plain-http"] if job.is_plain else ["--ca-file", job.server.ca]
        command = [self.binary, "pull", "--quiet", "--platform", "linux/amd64", *self.options, *trust]
        return [*command, job.reference, f"oci:{job.destination}:{TAG}"]


class Skopeo(Tool):
    """containers/image: that of podman, buildah and CRI-O."""

    name, programs, durable = "skopeo", ("skopeo",), True

    def command(self, job: Job) -> list:
        trust = ["--src-tls-verify=false"] if job.is_plain else ["--src-cert-dir", job.server.ca.parent]
        command = ["skopeo", "--insecure-policy", "copy", "--quiet", *trust]
        return [*command, f"docker://{job.reference}", f"oci:{job.destination}:{TAG}"]


class Crane(Tool):
    """go-containerregistry's."""

    name, programs = "crane", ("crane",)

    def version(self) -> str:
        return number(measure.output(["crane", "version"]))

    def command(self, job: Job) -> list:
        trust = ["--insecure"] if job.is_plain else []
        return ["crane", "pull", *trust, "--format=oci", job.reference, job.destination]


class Oras(Tool):
    """The OCI project's client for artifacts."""

    name, programs = "oras", ("oras",)

    def version(self) -> str:
        return number(measure.output(["oras", "version"]))

    def command(self, job: Job) -> list:
        trust = ["--from-plain-http"] if job.is_plain else ["--from-ca-file", job.server.ca]
        command = ["oras", "copy", "--no-tty", *trust, job.reference]
        return [*command, "--to-oci-layout", f"{job.destination}:{TAG}"]


class Regctl(Tool):
    """regclient's."""

    name, programs = "regctl", ("regctl",)

    def version(self) -> str:
        return number(measure.output(["regctl", "version", "--format", "{{.VCSTag}}"]))

    def command(self, job: Job) -> list:
        trust = ["--host", f"reg={job.host},tls=disabled"] if job.is_plain else []
        return ["regctl", *trust, "image", "copy", job.reference, f"ocidir://{job.destination}:{TAG}"]


class Curl(Tool):
    """What a shell script would do once it has read the manifest."""

    name, programs, reads_manifest = "curl", ("curl", "sha256sum", "sh"), False
    note = "is told of the blobs; then `sha256sum --check`"

    # Where the files are, and with the digests that are expected beside them.
    check = "sha256sum --check --strict --quiet ../scratch/sums"

    def blobs(self, job: Job) -> Path:
        return job.destination

    def sums(self, job: Job) -> str:
        """What `check` compares with."""
        return "".join(f"{name}  {name}\n" for name in sorted(job.image.blobs))

    def command(self, job: Job) -> list:
        files = (f'url = "{job.url(name)}"\noutput = "{name}"\n' for name in job.image.blobs)
        (job.scratch / "files").write_text("".join(files))
        (job.scratch / "sums").write_text(self.sums(job))
        trust = "" if job.is_plain else '--cacert "$1"'
        fetch = f"curl --fail --silent --show-error --parallel --parallel-max {JOBS} {trust} --config ../scratch/files"
        script = f'cd "$0" && {fetch} && {self.check}'
        return ["sh", "-c", script, job.destination, job.server.ca]


class CurlOpenssl(Curl):
    """The same, with a faster digest than coreutils has on most machines."""

    name, programs = "curl-openssl", ("curl", "openssl", "sh")
    note = "is told of the blobs; then `openssl dgst`, which uses the processor's SHA instructions"
    check = "openssl dgst -sha256 -r $(ls) | cmp - ../scratch/sums"

    def sums(self, job: Job) -> str:
        return "".join(f"{name} *{name}\n" for name in sorted(job.image.blobs))


class Aria2(Tool):
    """Up to 16 connections for each file, and the digest computed afterwards."""

    name, programs, reads_manifest = "aria2c", ("aria2c",), False
    note = "-x16; is told of the blobs; then its own checksum"

    def blobs(self, job: Job) -> Path:
        return job.destination

    def command(self, job: Job) -> list:
        lines = []
        for name in job.image.blobs:
            lines += [job.url(name), f"  out={name}"]
            if self.verifies:
                lines.append(f"  checksum=sha-256={name}")
        (job.scratch / "files").write_text("\n".join(lines) + "\n")
        trust = [] if job.is_plain else [f"--ca-certificate={job.server.ca}"]
        options = ["-x16", "-s16", "-k1M", f"-j{JOBS}", "--file-allocation=falloc", "--no-conf", "--quiet"]
        return ["aria2c", *options, *trust, f"--dir={job.destination}", "-i", job.scratch / "files"]


class Aria2Unchecked(Aria2):
    """What splitting files alone would bring."""

    name, verifies = "aria2c-unchecked", False
    note = "-x16; is told of the blobs; verifies nothing"


class Ctr(Tool):
    """containerd, a fresh one each time: into its content store, without unpacking."""

    name, programs, durable = "ctr", ("ctr", "containerd"), True
    note = "`ctr content fetch`; with the processor time of a containerd started before"

    def is_available(self) -> bool:
        return super().is_available() and os.geteuid() == 0

    def blobs(self, job: Job) -> Path:
        return job.destination / "io.containerd.content.v1.content/blobs/sha256"

    def run(self, job: Job, environment: dict) -> Usage:
        # Paths of sockets are short.
        with tempfile.TemporaryDirectory(prefix="bench-") as state:
            address = f"{state}/socket"
            command = ["containerd", "--root", job.destination, "--state", state, "--address", address]
            config = Path(state) / "config.toml"
            config.write_text('version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n')
            with open(job.scratch / "containerd", "wb") as log:
                daemon = subprocess.Popen([*command, "--config", config], stdout=log, stderr=log)
            try:
                self.wait(["ctr", "--address", address, "version"], daemon)
                before = Daemon.read(daemon.pid)
                trust = ["--plain-http"] if job.is_plain else ["--hosts-dir", self.hosts(job)]
                pull = ["content", "fetch", "--platform", "linux/amd64", *trust, job.reference]
                command = ["ctr", "--address", address, *pull]
                used = measure.run(command, job.scratch / "output", environment)
                after = Daemon.read(daemon.pid)
            finally:
                daemon.send_signal(signal.SIGTERM)
                daemon.wait()
        user, system = after.user - before.user, after.system - before.system
        peak_rss = max(used.peak_rss, after.peak_rss)
        return Usage(used.wall, used.user + user, used.system + system, peak_rss)

    @staticmethod
    def hosts(job: Job) -> Path:
        """Settings that say https: to a loopback address it speaks http otherwise."""
        directory = job.scratch / "hosts"
        (directory / job.host).mkdir(parents=True)
        text = f'[host."https://{job.host}"]\ncapabilities = ["pull", "resolve"]\nca = "{job.server.ca}"\n'
        (directory / job.host / "hosts.toml").write_text(text)
        return directory

    @staticmethod
    def wait(command: list, daemon: subprocess.Popen) -> None:
        """Until the command succeeds."""
        deadline = time.monotonic() + PATIENCE
        while subprocess.run(command, capture_output=True, check=False).returncode != 0:
            if daemon.poll() is not None or time.monotonic() > deadline:
                raise Failure("containerd does not start")
            time.sleep(0.05)


@dataclass
class Daemon:
    """What a process that goes on has used until now."""

    user: float
    system: float
    peak_rss: int

    @staticmethod
    def read(pid: int) -> "Daemon":
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        user, system = (int(fields[index - 3]) / os.sysconf("SC_CLK_TCK") for index in (14, 15))
        status = Path(f"/proc/{pid}/status").read_text()
        return Daemon(user, system, int(re.search(r"^VmHWM:\s+(\d+)", status, re.M)[1]) << 10)


def number(said: str) -> str:
    """The version in what a program says of itself."""
    found = re.search(r"v?(\d+\.\d+[-+.~\w]*)", said)
    return found[1] if found else said or "unknown"


def all_tools(ringpull: Path) -> list:
    """Every tool that the bench knows, whether it is here or not."""
    fast = Ringpull("ringpull", ringpull, ["--no-fsync"], "--no-fsync")
    durable = Ringpull("ringpull-durable", ringpull, [], "as it comes: synced before it ends")
    epoll = Ringpull("ringpull-epoll", ringpull, ["--no-fsync", "--engine=epoll"], "--no-fsync, --engine epoll")
    peers = [Crane(), Oras(), Skopeo(), Regctl(), Ctr(), CurlOpenssl(), Curl(), Aria2(), Aria2Unchecked()]
    return [fast, durable, epoll, *peers]
