"""A data set as its reader gives it -> a short text that other labels or pictures would change."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from ramnas_host.annotations.detection_data import DetectionData, DetectionSplit
from ramnas_host.annotations.segmentation_data import SegmentationData, SegmentationSplit
from ramnas_host.data.images import Dataset, Files, Split


def data_digest(data: DetectionData | SegmentationData | Dataset) -> str:
    """A digest of the classes, and of each split's pictures and labels.

    Of files it has the names and not the folder, so that a data set may be moved. Of label images
    it has the length in place of the content, which would take long to read. The pixels of pictures
    are not part of it.
    """
    found = hashlib.blake2b(msgspec.json.encode(data.classes), digest_size=16)
    for split in (data.train, data.selection, data.report):
        for part in _facts(split):
            found.update(len(part).to_bytes(8, "little") + part)
    return found.hexdigest()


def _facts(split: DetectionSplit | SegmentationSplit | Split) -> Iterator[bytes]:
    if isinstance(split.images, Files):
        yield msgspec.json.encode([path.name for path in split.images.paths])
    if isinstance(split, DetectionSplit):
        yield msgspec.json.encode((split.sizes, split.stored))
        for objects in split.objects:
            for values in (objects.boxes, objects.classes, objects.crowd):
                yield values.tobytes()
    elif isinstance(split, SegmentationSplit):
        yield msgspec.json.encode([(path.name, _length(path)) for path in split.labels])
        yield split.table.classes.tobytes() + split.table.listed.tobytes()
        yield msgspec.json.encode(sorted(split.table.colours.items()))
    else:
        yield split.labels.numpy().tobytes()


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # whoever reads the file says why it cannot be read
        return -1
