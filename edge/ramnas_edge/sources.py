"""Where frames come from: an image, or a folder of images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Iterator, List, Tuple

from ramnas_edge.vision import IMAGE_SUFFIXES, read_image
from ramnas_models.errors import SourceError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


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


def frames(images: List[Path]) -> Iterator[Tuple[Path, NDArray[np.uint8]]]:
    for path in images:
        yield path, read_image(str(path))
