"""Real photographs that Python packages ship -> backgrounds of scenes, apart by split."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from ramnas_edge.vision import preprocessing
from ramnas_models.errors import DataError


@dataclass(frozen=True)
class Photograph:
    """One of `package`'s files; `licence` as the package itself states it."""

    package: str
    file: str
    licence: str
    by: str

    def read(self) -> preprocessing.Image:
        """uint8 [h, w, 3] in BGR; DataError names the package that is missing."""
        found = importlib.util.find_spec(self.package)
        if found is None or found.origin is None:
            raise DataError(
                f"photograph {self.file} ships with the Python package {self.package}, which is "
                "not installed; pip install 'ramnas[host]'"
            )
        return preprocessing.read_image(str(Path(found.origin).parent / self.file))


def _skimage(name: str, licence: str, by: str) -> Photograph:
    return Photograph("skimage", f"data/{name}", licence, by)


# Nothing with numerals in it. What is trained on is never looked at in val or test.
PHOTOGRAPHS = {
    "train": (
        Photograph("sklearn", "datasets/images/china.jpg", "CC-BY-2.0", "danielbuechele (Flickr)"),
        _skimage("coffee.png", "CC0", "Rachel Michetti"),
        _skimage("astronaut.png", "public domain", "NASA"),
        _skimage("camera.png", "CC0", "Lav Varshney"),
        _skimage("brick.png", "CC0", "CC0Textures"),
        _skimage("gravel.png", "CC0", "CC0Textures"),
        _skimage("retina.jpg", "CC0", "Mikael Haggstrom"),
        _skimage("hubble_deep_field.jpg", "public domain", "NASA"),
        _skimage("coins.png", "no known copyright restrictions", "Brooklyn Museum"),
    ),
    "val": (
        _skimage("rocket.jpg", "public domain", "SpaceX"),
        _skimage("grass.png", "CC0", "Linda Bobela"),
    ),
    "test": (
        Photograph("sklearn", "datasets/images/flower.jpg", "CC-BY-2.0", "vultilion (Flickr)"),
        _skimage("chelsea.png", "CC0", "Stefan van der Walt"),
        Photograph(
            "matplotlib", "mpl-data/sample_data/grace_hopper.jpg", "public domain", "US Navy"
        ),
    ),
}
