"""Results, diagnoses and parameters -> ROS messages, by duck typing, without message packages.

`types` is anything with the message classes as attributes, such as `vision_msgs.msg`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Sequence

import numpy as np

from ramnas_edge.vision.annotate import class_colours

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ramnas_edge.vision.preprocessing import Image
    from ramnas_edge.vision.results import Mask
    from ramnas_ros.diagnosis import Diagnosis
    from ramnas_ros.parameters import Parameter


def label_info(types: Any, header: Any, names: Sequence[str], threshold: float) -> Any:
    """Make a LabelInfo: the names of a mask's values or of a detector's classes."""
    classes = [types.VisionClass(class_id=i, class_name=name) for i, name in enumerate(names)]
    return types.LabelInfo(header=header, class_map=classes, threshold=threshold)


def coloured(mask: Mask) -> Image:
    """Colour a mask by class -> uint8 BGR [h, w, 3].

    The colours are those of the overlay, except that the background is black.
    """
    palette: NDArray[np.uint8] = class_colours(len(mask.names))
    if mask.names[0] == "background":
        palette[0] = 0
    return palette[mask.classes]


def diagnostics(types: Any, header: Any, name: str, hardware: str, found: Diagnosis) -> Any:
    """Make a DiagnosticArray with one status."""
    values = [types.KeyValue(key=key, value=value) for key, value in found.values]
    status = types.DiagnosticStatus(
        level=bytes([found.level]), name=name, message=found.message, hardware_id=hardware,
        values=values,
    )  # fmt: skip
    return types.DiagnosticArray(header=header, status=[status])


def descriptor(types: Any, parameter: Parameter) -> Any:
    """Make a ParameterDescriptor, with the parameter's range."""
    made = types.ParameterDescriptor(
        description=parameter.description, additional_constraints=parameter.constraints
    )
    if parameter.between:
        low, high = parameter.between
        if isinstance(parameter.default, float):
            made.floating_point_range = [
                types.FloatingPointRange(from_value=float(low), to_value=float(high))
            ]
            made.dynamic_typing = True  # so that 25 is accepted as well as 25.0
        else:
            made.integer_range = [types.IntegerRange(from_value=int(low), to_value=int(high))]
    return made
