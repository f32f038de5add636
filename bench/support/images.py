"""The images that are pulled: OCI layouts of random bytes, made once; and whether what came is them."""

import hashlib
import json
import random
import shutil
import tarfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from measure import Failure

MIB = 1 << 20
TAG = "bench"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"

# Written last, so that an image half made is not taken for one. To be changed with what is made.
COMPLETE = "complete-1"

# Sizes of the layers in bytes, of each shape: many small ones, a common image, few huge ones.
SHAPES = {
    "many": [2 * MIB] * 60,
    "layers": [size * MIB for size in (20, 30, 40, 45, 45, 50, 50, 120)],
    "large": [3072 * MIB, 600 * MIB, 4 << 10],
}


@dataclass(frozen=True)
class Image:
    """An image that is there to be served."""

    shape: str
    # The layout.
    directory: Path
    # The manifest's digest, without algorithm.
    manifest: str
    # Size of each blob by the hexadecimal part of its digest: config and layers.
    blobs: dict

    @property
    def repository(self) -> str:
        """Its name at the registry."""
        return f"bench/{self.shape}"

    @property
    def size(self) -> int:
        """Bytes of all blobs."""
        return sum(self.blobs.values())

    @property
    def text(self) -> str:
        """For the reader."""
        return f"{self.shape}: {len(self.blobs) - 1} layers, {self.size / MIB:.0f} MiB"

    def warm(self) -> None:
        """Reads all of it, so that no server waits for a disk."""
        for name in self.blobs:
            with open(self.directory / "blobs/sha256" / name, "rb", buffering=0) as file:
                while file.read(MIB):
                    pass

    def verify(self, blobs: Path, with_manifest: bool) -> None:
        """Fails unless `blobs` holds each blob under its digest's name, and each is what it says."""
        names = [*self.blobs, *([self.manifest] if with_manifest else [])]
        with ThreadPoolExecutor() as pool:
            found = pool.map(lambda name: sha256_of(blobs / name), names)
            for name, digest in zip(names, found):
                if digest != name:
                    raise Failure(f"a blob of {self.shape} is wrong: {name} has the digest {digest}")


def make(shape: str, divisor: int, cache: Path) -> Image:
    """The image of a shape, with layers `divisor` times smaller; made unless it is there."""
    directory = cache / "images" / (shape if divisor == 1 else f"{shape}-{divisor}")
    if not (directory / COMPLETE).exists():
        shutil.rmtree(directory, ignore_errors=True)
        (directory / "blobs/sha256").mkdir(parents=True)
        sizes = [max(size // divisor, 1 << 10) for size in SHAPES[shape]]
        (directory / COMPLETE).write_text(write_image(directory, shape, sizes))
    digest = (directory / COMPLETE).read_text()
    manifest = json.loads((directory / "blobs/sha256" / digest).read_bytes())
    blobs = {entry["digest"][7:]: entry["size"] for entry in [manifest["config"], *manifest["layers"]]}
    return Image(shape, directory, digest, blobs)


def write_image(directory: Path, shape: str, sizes: list) -> str:
    """Writes the layout, and returns the manifest's digest."""
    layers, contents = [], []
    for number, size in enumerate(sizes):
        layer, content = write_layer(directory, random.Random(f"{shape}/{number}"), size)
        layers.append(layer)
        contents.append(f"sha256:{content}")
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": contents},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": write_document(directory, CONFIG_TYPE, config),
        "layers": layers,
    }
    root = write_document(directory, MANIFEST_TYPE, manifest)
    return root["digest"][7:]


def write_layer(directory: Path, source: random.Random, size: int) -> tuple:
    """A tar of one file of random bytes, in a gzip that stores them: a real layer of about `size`
    bytes. Returns its descriptor, and the digest of the tar."""
    partial = directory / "partial"
    digest, content, compressor = hashlib.sha256(), hashlib.sha256(), zlib.compressobj(0, wbits=31)
    # Less the tar's header and end, and what each stored block costs.
    size -= min(size // 2, 2048 + size // 8192)
    with open(partial, "wb") as file:

        def write(packed: bytes) -> None:
            digest.update(packed)
            file.write(packed)

        for piece in tar(source, size):
            content.update(piece)
            write(compressor.compress(piece))
        write(compressor.flush())
        written = file.tell()
    name = digest.hexdigest()
    partial.rename(directory / "blobs/sha256" / name)
    descriptor = {"mediaType": LAYER_TYPE, "digest": f"sha256:{name}", "size": written}
    return descriptor, content.hexdigest()


def tar(source: random.Random, size: int):
    """The pieces of a tar with one file of random bytes."""
    header = tarfile.TarInfo(f"data-{source.getrandbits(64):016x}")
    header.size = size
    yield header.tobuf(tarfile.USTAR_FORMAT)
    for offset in range(0, size, MIB):
        yield source.randbytes(min(MIB, size - offset))
    yield bytes(-size % tarfile.BLOCKSIZE + 2 * tarfile.BLOCKSIZE)


def write_document(directory: Path, media_type: str, document: dict) -> dict:
    """Writes a JSON document as a blob, and returns its descriptor."""
    content = json.dumps(document).encode()
    name = hashlib.sha256(content).hexdigest()
    (directory / "blobs/sha256" / name).write_bytes(content)
    return {"mediaType": media_type, "digest": f"sha256:{name}", "size": len(content)}


def sha256_of(path: Path) -> str:
    """The file's digest, or what is wrong with the file."""
    try:
        with open(path, "rb", buffering=0) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return "(it did not come)"
