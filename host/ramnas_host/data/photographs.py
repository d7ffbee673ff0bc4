"""The photographs that scenes are composed on, with author and licence, apart by split."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from ramnas_edge.vision import preprocessing
from ramnas_models.errors import DataError


@dataclass(frozen=True)
class Photograph:
    """A photograph that a Python package ships: `file` is its path inside `package`.

    `licence` is the one that the package states.
    """

    package: str
    file: str
    licence: str
    by: str

    def read(self) -> preprocessing.Image:
        """The photograph as uint8 [h, w, 3] in BGR; DataError if its package is not installed."""
        found = importlib.util.find_spec(self.package)
        if found is None or found.origin is None:
            raise DataError(
                f"photograph {self.file} ships with the Python package {self.package}, which is "
                "not installed; pip install 'ramnas[host]'"
            )
        return preprocessing.read_image(str(Path(found.origin).parent / self.file))


def _bundled(name: str, licence: str, by: str) -> Photograph:
    """One of the four photographs that ramnas carries; backgrounds/SOURCES.txt says where from."""
    return Photograph("ramnas_host", f"data/backgrounds/{name}", licence, by)


# None of them shows numerals, which would be digits without a label. No photograph is in two
# splits, so that val and test show backgrounds that training has not seen.
PHOTOGRAPHS = {
    "train": (
        Photograph("sklearn", "datasets/images/china.jpg", "CC-BY-2.0", "danielbuechele (Flickr)"),
        _bundled("coffee.jpg", "CC0", "Rachel Michetti"),
        _bundled("astronaut.jpg", "public domain", "NASA"),
    ),
    "val": (_bundled("rocket.jpg", "public domain", "SpaceX"),),
    "test": (
        Photograph("sklearn", "datasets/images/flower.jpg", "CC-BY-2.0", "vultilion (Flickr)"),
        _bundled("chelsea.jpg", "CC0", "Stefan van der Walt"),
        Photograph(
            "matplotlib", "mpl-data/sample_data/grace_hopper.jpg", "public domain", "US Navy"
        ),
    ),
}
