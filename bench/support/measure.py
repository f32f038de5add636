"""Runs a command and says what it cost; says on what machine."""

import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
LAUNCH = Path(__file__).resolve().parent / "launch.py"

# Longest time that one run may take, in seconds. The slowest that is expected, one connection of
# 40 MB/s for 3.6 GiB, takes 100.
RUN_TIME_MAX = 900

# Memory that is never asked for, in bytes: for the page cache of what is served, and for others.
MEMORY_RESERVE = 6 << 30


class Failure(Exception):
    """The bench cannot go on. The text says why."""


@dataclass
class Usage:
    """What a command and its children used."""

    # Seconds from start to end.
    wall: float
    # Seconds of processor in user mode.
    user: float
    # Seconds of processor in the kernel.
    system: float
    # Bytes in memory at once, of the largest of the processes. Never below the size of a bare
    # interpreter, about 10 MiB: see launch.py.
    peak_rss: int

    @property
    def processor(self) -> float:
        """Seconds of processor."""
        return self.user + self.system


def run(command: list, log: Path, environment: dict | None = None) -> Usage:
    """Runs `command` to its end; its output goes to `log`. Fails if it fails."""
    used = log.with_suffix(".used")
    launch = [sys.executable, "-I", "-S", LAUNCH, used]
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [str(word) for word in [*launch, *command]],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,
        )
        try:
            process.wait(RUN_TIME_MAX)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
    if process.returncode != 0:
        said = log.read_text(errors="replace")[-2000:]
        raise Failure(f"{' '.join(map(str, command))}\nended with {process.returncode}:\n{said}")
    wall, user, system, peak_rss = used.read_text().split()
    return Usage(float(wall), float(user), float(system), int(peak_rss))


def processor_of(process: int) -> float:
    """Seconds of processor that a running process and its children have used until now."""
    children = read(f"/proc/{process}/task/{process}/children").split()
    # clock_getcpuclockid(3): the clock of all threads of a process.
    own = time.clock_gettime((~process << 3) | 2)
    return own + sum(processor_of(int(child)) for child in children)


def median(usages: list) -> Usage:
    """Each figure's median on its own."""
    rows = [asdict(usage) for usage in usages]
    return Usage(**{name: statistics.median(row[name] for row in rows) for name in rows[0]})


def touch_memory(size: int) -> None:
    """Has the machine back `size` bytes of free memory, as far as it has them.

    A virtual machine hands free memory back to its host. Who touches it first then pays five to
    ten times as much, and that would be whoever's turn it is."""
    size = min(size, memory_available() - MEMORY_RESERVE)
    if size <= 0:
        return
    # In a process of its own, so that all of it is free again.
    program = "import mmap, sys; mmap.mmap(-1, int(sys.argv[1]), mmap.MAP_PRIVATE | mmap.MAP_POPULATE)"
    subprocess.run([sys.executable, "-c", program, str(size)], check=True)


def sync(directory: Path) -> float:
    """Writes back all of the directory's file system. Returns how many seconds that took."""
    started = time.monotonic()
    subprocess.run(["sync", "--file-system", directory], check=True)
    return time.monotonic() - started


def fresh(directory: Path) -> Path:
    """The directory, empty."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory


def build(*options: str) -> None:
    """Builds the release binary, or what `options` name instead."""
    subprocess.run(["cargo", "build", "--release", "--locked", "--quiet", *options], cwd=ROOT, check=True)


def target() -> Path:
    """Where cargo puts what it builds; and where the benches keep images and scratch files."""
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()


# --- counting what the kernel does ---------------------------------------------------------------

SYSCALLS, INSTRUCTIONS = "syscalls", "instructions"


class Counter:
    """Counts system calls, and instructions where the machine can. Slows down what it counts, so
    that is never what is timed."""

    def __init__(self, scratch: Path):
        self.file = scratch / "counted"
        self.events = {}
        for name, event in ((SYSCALLS, "raw_syscalls:sys_enter"), (INSTRUCTIONS, "instructions")):
            if shutil.which("perf") and self.by_perf(["true"], {name: event}):
                self.events[name] = event
        self.has_strace = shutil.which("strace") is not None

    @property
    def how(self) -> str:
        """What counts, for the reader."""
        if SYSCALLS in self.events:
            how = "system calls counted by `perf stat`"
        elif self.has_strace:
            how = "system calls counted by `strace -c`, which slows them down and may change their number"
        else:
            how = "system calls not counted (neither perf nor strace can)"
        counted = "counted by `perf stat`" if INSTRUCTIONS in self.events else "not counted: this machine cannot"
        return f"{how}; instructions {counted}"

    def count(self, command: list) -> dict:
        """Runs `command` and returns what could be counted, by name."""
        counts = self.by_perf(command, self.events) if self.events else {}
        if SYSCALLS not in counts and self.has_strace:
            self.quietly(["strace", "-f", "-c", "-o", self.file, *command])
            total = re.search(r"^100\.00\s+\S+\s+\S+\s+(\d+).*total$", self.file.read_text(), re.M)
            counts[SYSCALLS] = int(total[1]) if total else 0
        return counts

    def by_perf(self, command: list, events: dict) -> dict:
        names = ",".join(events.values())
        try:
            self.quietly(["perf", "stat", "-x", ";", "-o", self.file, "-e", names, "--", *command])
        except subprocess.CalledProcessError:
            return {}
        counts = {}
        for line in self.file.read_text().splitlines():
            fields = line.split(";")
            for name, event in events.items():
                # What cannot be counted has `<not supported>` for a number.
                if len(fields) > 2 and fields[2].startswith(event) and fields[0].isdigit():
                    counts[name] = int(fields[0])
        return counts

    @staticmethod
    def quietly(command: list) -> None:
        words = [str(word) for word in command]
        subprocess.run(words, check=True, stdin=subprocess.DEVNULL, capture_output=True)


# --- the machine ---------------------------------------------------------------------------------


def memory_available() -> int:
    """Bytes that can be had without anything being swapped out."""
    return int(re.search(r"^MemAvailable:\s+(\d+) kB", read("/proc/meminfo"), re.M)[1]) << 10


def machine(scratch: Path, is_built_here: bool) -> dict:
    """What the figures were measured on, for the reader. Names no path of it."""
    model = re.search(r"^model name\s*: (.*)$", read("/proc/cpuinfo"), re.M)
    memory = re.search(r"^MemTotal:\s+(\d+) kB", read("/proc/meminfo"), re.M)
    file_system = output(["stat", "--file-system", "--format", "%T", scratch])
    commit = output(["git", "-C", ROOT, "describe", "--always", "--dirty", "--exclude=*"])
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "ringpull": (commit or "unknown") if is_built_here else "a binary given with --ringpull",
        "processor": model[1] if model else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": f"{int(memory[1]) / (1 << 20):.0f} GiB" if memory else "unknown",
        "kernel": platform.release(),
        "file system": "ext4" if file_system == "ext2/ext3" else file_system or "unknown",
        "load before": f"{os.getloadavg()[0]:.1f}",
    }


def read(path: str) -> str:
    """A file of /proc."""
    return Path(path).read_text()


def output(command: list) -> str:
    """What a command says in its first line, or nothing if it fails."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    said = (done.stdout.strip() or done.stderr.strip()) if done.returncode == 0 else ""
    return said.splitlines()[0] if said else ""
