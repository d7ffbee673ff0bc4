"""Results, diagnoses and parameters -> ROS messages, by duck typing: no message package needed.

`types` is anything that has the message classes by their names, such as `vision_msgs.msg`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Sequence

import numpy as np

from ramnas_edge.vision.annotate import class_colours

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ramnas_edge.vision.preprocessing import Image
    from ramnas_edge.vision.results import Mask
    from ramnas_ros.diagnosis import Status
    from ramnas_ros.parameters import Parameter


def label_info(types: Any, header: Any, names: Sequence[str], threshold: float) -> Any:
    """-> LabelInfo: what the values of a mask, or the classes of a detector, are called."""
    classes = [types.VisionClass(class_id=i, class_name=name) for i, name in enumerate(names)]
    return types.LabelInfo(header=header, class_map=classes, threshold=threshold)


def coloured(mask: Mask) -> Image:
    """uint8 BGR [h, w, 3]: a colour a class, those of the overlay; the background is black."""
    palette: NDArray[np.uint8] = class_colours(len(mask.names))
    if mask.names[0] == "background":
        palette[0] = 0
    return palette[mask.classes]


def diagnostics(types: Any, header: Any, name: str, hardware: str, found: Status) -> Any:
    """-> DiagnosticArray of one status."""
    values = [types.KeyValue(key=key, value=value) for key, value in found.values]
    status = types.DiagnosticStatus(
        level=bytes([found.level]), name=name, message=found.message, hardware_id=hardware,
        values=values,
    )  # fmt: skip
    return types.DiagnosticArray(header=header, status=[status])


def descriptor(types: Any, parameter: Parameter) -> Any:
    """-> ParameterDescriptor, with its range."""
    made = types.ParameterDescriptor(
        description=parameter.description, additional_constraints=parameter.constraints
    )
    if parameter.between:
        low, high = parameter.between
        if isinstance(parameter.default, float):
            made.floating_point_range = [
                types.FloatingPointRange(from_value=float(low), to_value=float(high))
            ]
            made.dynamic_typing = True  # 25 is a budget too, not 25.0 alone
        else:
            made.integer_range = [types.IntegerRange(from_value=int(low), to_value=int(high))]
    return made
