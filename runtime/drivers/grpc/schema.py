"""What a `.proto` file offers: its services and their messages, compiled when the driver starts.

Nothing is generated and nothing is registered in protobuf's default pool, where a handler's own module of the same file
may be: the types live in a pool of their own.
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import DecodeError

from runtime.errors import DriverStartError

# Seconds for one run of the compiler, which takes 0.2.
COMPILE_LIMIT_S = 60.0


class Schema(NamedTuple):
    """pool: every type of the file and of its imports. services: those that the file itself declares."""

    pool: descriptor_pool.DescriptorPool
    services: tuple[ServiceDescriptor, ...]


def read_schema(path: Path) -> Schema:
    """Read a `.proto` file, which may import others of its folder and Google's own, or a descriptor set.

    A descriptor set is what `protoc --include_imports --descriptor_set_out=FILE` writes; all its services count.
    Blocks. Raises DriverStartError with the place in the file, and for a file without a service.
    """
    if not path.is_file():
        raise DriverStartError(f"there is no file {path}; name a .proto file, or a descriptor set")
    is_source = path.suffix == ".proto"
    files = _parse(_compiled(path) if is_source else path.read_bytes(), path)
    pool = _pool_of(files, path)
    declaring = [file for file in files if file.name == path.name or not is_source]
    services = tuple(_services(pool, declaring))
    if not services:
        raise DriverStartError(f"{path} declares no service; add one: service NAME {{ rpc METHOD(IN) returns (OUT); }}")
    return Schema(pool, services)


def _compiled(path: Path) -> bytes:
    """Return the descriptor set of a file. In a process of its own, for the compiler writes its errors to stderr."""
    with tempfile.TemporaryDirectory(prefix="krt-proto-") as folder:
        result = Path(folder) / "set"
        command = [sys.executable, "-P", "-m", "grpc_tools.protoc", "--include_imports", "-I."]
        done = subprocess.run(
            [*command, f"--descriptor_set_out={result}", path.name],
            cwd=path.parent, capture_output=True, text=True, timeout=COMPILE_LIMIT_S, check=False,
        )  # fmt: skip
        if done.returncode:
            raise DriverStartError(f"{path} cannot be compiled: {done.stderr.strip()}")
        return result.read_bytes()


def _parse(data: bytes, path: Path) -> list[descriptor_pb2.FileDescriptorProto]:
    try:
        return list(descriptor_pb2.FileDescriptorSet.FromString(data).file)
    except DecodeError as error:
        raise DriverStartError(f"{path} is neither a .proto file nor a descriptor set: {error}") from error


def _pool_of(files: Iterable[descriptor_pb2.FileDescriptorProto], path: Path) -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    try:
        for file in files:
            pool.Add(file)
    except TypeError as error:
        remedy = "write it with --include_imports"
        raise DriverStartError(f"the descriptor set {path} is not complete, {remedy}: {error}") from error
    return pool


def _services(
    pool: descriptor_pool.DescriptorPool, files: Iterable[descriptor_pb2.FileDescriptorProto]
) -> Iterable[ServiceDescriptor]:
    for file in files:
        for service in file.service:
            yield pool.FindServiceByName(f"{file.package}.{service.name}" if file.package else service.name)
