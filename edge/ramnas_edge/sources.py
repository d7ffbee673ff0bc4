"""Where frames come from: an image, or a folder of images."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Iterator, List, Tuple

from ramnas_edge.vision import IMAGE_SUFFIXES, read_image
from ramnas_models.errors import SourceError

if TYPE_CHECKING:
    from ramnas_edge.vision import Image

log = logging.getLogger(__name__)


def list_images(source: str) -> List[Path]:
    """The image at `source`, or every image below that folder in order of path."""
    path = Path(source)
    if path.is_dir():
        images = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        if not images:
            raise SourceError(f"{path} holds no image ({', '.join(IMAGE_SUFFIXES)})")
        return images
    if not path.is_file():
        raise SourceError(f"{path} does not exist")
    return [path]


def batches(
    images: List[Path], size: int = 256, max_bytes: int = 64 * 2**20
) -> Iterator[List[Tuple[Path, Image]]]:
    """The frames, read ahead by up to `size` or `max_bytes`.

    Decoding files between two calls of a small network would slow the next calls down and show up
    in their timing. A file that is no image is logged and left out; SourceError if all are.
    """
    batch: List[Tuple[Path, Image]] = []
    held = broken = 0
    for path in images:
        try:
            batch.append((path, read_image(str(path))))
        except SourceError as error:
            broken += 1
            if broken == len(images):
                raise
            log.warning("left out: %s", error)
            continue
        held += batch[-1][1].nbytes
        if len(batch) == size or held >= max_bytes:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch
