"""Device images, kept in the user's cache folder from one compilation to the next."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from athanor.compiler.user_cache import user_cache
from athanor.compiler.write_aside import OutputError, write_aside
from athanor.targets.cuda_images import DeviceImage, compiler_version, device_image
from athanor.targets.gpu import GPUSpec


def cached_images(source: str, gpu: GPUSpec, enabled: bool = True) -> list[DeviceImage]:
    """The images of a translation unit, from the cache where it was compiled before.

    Each compute capability is compiled on a thread of its own; its cubin and its PTX, which come
    from one another, on the same.
    Raises CompileError where there is no compiler for CUDA, or where it refuses the source.
    """
    base = user_cache() if enabled else None
    names = [*gpu.architectures, *([gpu.portable] if gpu.portable else [])]
    groups = dict.fromkeys(name.partition("_")[2] for name in names)
    with ThreadPoolExecutor(len(groups)) as pool:
        made = pool.map(
            lambda group: {n: _image(source, n, base) for n in names if n.endswith(f"_{group}")},
            groups,
        )
        found = {name: image for images in made for name, image in images.items()}
    return [found[name] for name in names]


def _image(source: str, architecture: str, base: Path | None) -> DeviceImage:
    path = None
    if base is not None:
        text = "\0".join((compiler_version(), architecture, source))
        path = base / "images" / hashlib.sha256(text.encode()).hexdigest()
        try:
            data = path.read_bytes()
            if hashlib.sha256(data[32:]).digest() == data[:32]:
                return DeviceImage(architecture, data[32:])
        except OSError:
            pass  # not compiled yet
    image = device_image(source, architecture)
    if path is not None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with write_aside(path) as file:
                file.write(hashlib.sha256(image.data).digest() + image.data)
        except (OSError, OutputError):
            pass  # a folder that can't be written costs time the next time, no more
    return image
