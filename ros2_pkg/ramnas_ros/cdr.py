"""Detections -> the bytes of a vision_msgs/Detection2DArray, which rclpy publishes as they are.

Little-endian CDR (OMG DDSI-RTPS 10.2), as every middleware of ROS 2 has it. 100 detections as
Python messages take 1.3 ms to make and 1.5 ms to convert and publish; as bytes 0.4 ms altogether.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ramnas_edge.vision.results import Detections

_HEAD = b"\x00\x01\x00\x00"  # little-endian CDR; what follows is aligned from here on
_ONE = struct.pack("<I", 1)
_STAMP = struct.Struct("<iI")
_NO_POSE = struct.pack("<43d", *[0.0] * 6, 1.0, *[0.0] * 36)  # in 3D: of a box there is none
_SCORE = struct.Struct("<d")
_BOX = struct.Struct("<5d")  # centre x, y, theta; size x, y
_NO_ID = struct.pack("<I1s", 1, b"\0")


def detection_array(header: Any, found: Detections) -> bytes:
    """In pixels of the image, best first (vision_msgs 4: Humble and later).

    Every detection has the header of the image and one hypothesis, whose class_id is the name of
    the class.
    """
    stamp = _STAMP.pack(header.stamp.sec, header.stamp.nanosec)
    same = stamp + _string(header.frame_id)
    names = [_string(name) for name in found.names]
    out = bytearray(same)
    _align(out, 4)
    out += struct.pack("<I", len(found.scores))
    rows = zip(found.boxes.tolist(), found.scores.tolist(), found.classes.tolist())
    for (x0, y0, x1, y1), score, index in rows:
        _align(out, 4)
        out += same
        _align(out, 4)
        out += _ONE + names[index]
        _align(out, 8)
        out += _SCORE.pack(score) + _NO_POSE
        out += _BOX.pack((x0 + x1) / 2, (y0 + y1) / 2, 0.0, x1 - x0, y1 - y0) + _NO_ID
    return _HEAD + bytes(out)


def _string(text: str) -> bytes:
    """Its length with the zero at its end, then both."""
    data = text.encode() + b"\0"
    return struct.pack("<I", len(data)) + data


def _align(out: bytearray, size: int) -> None:
    out += bytes(-len(out) % size)
