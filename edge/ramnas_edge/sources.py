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


def batches(images: List[Path], size: int = 32) -> Iterator[List[Tuple[Path, Image]]]:
    """The frames, read `size` at a time so that decoding files does not disturb what is timed.

    A file that is no image is named in the log and left out; SourceError if all are.
    """
    broken = 0
    for start in range(0, len(images), size):
        batch = []
        for path in images[start : start + size]:
            try:
                batch.append((path, read_image(str(path))))
            except SourceError as error:
                broken += 1
                if broken == len(images):
                    raise
                log.warning("left out: %s", error)
        if batch:
            yield batch
