"""Launch arguments -> the perception node, with shared memory that is large enough for images."""

from __future__ import annotations

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from ramnas_ros.transport import environment

CONFIG = Path(get_package_share_directory("ramnas")) / "config"

# argument -> (default, description)
ARGUMENTS = {
    "bundle": ("", "folder of the bundle of models; empty: as in params_file"),
    "task": ("", "detection, segmentation or both; empty: as in params_file"),
    "latency_budget_ms": (
        "",
        "limit for the p90 of the work on one frame, 0: no limit; empty: as in params_file",
    ),
    "image_topic": ("image", "topic of the camera's images, sensor_msgs/Image"),
    "namespace": ("", "namespace of the node, and of topics that do not begin with /"),
    "autostart": ("true", "configure and activate the node when its process starts"),
    "params_file": (str(CONFIG / "perception.yaml"), "file with the parameters of the node"),
}


def generate_launch_description() -> LaunchDescription:
    variables, warning = environment(CONFIG / "fastdds_image.xml")
    return LaunchDescription(
        [
            *(SetEnvironmentVariable(name, value) for name, value in variables.items()),
            *([LogInfo(msg=f"warning: {warning}")] if warning else []),
            *(
                DeclareLaunchArgument(name, default_value=default, description=description)
                for name, (default, description) in ARGUMENTS.items()
            ),
            OpaqueFunction(function=_node),
        ]
    )


def _node(context: LaunchContext) -> list[Node]:
    overrides = {
        # typed, so that a text stays text: a folder may be called 2026
        name: ParameterValue(LaunchConfiguration(name), value_type=kind)
        for name, kind in (("bundle", str), ("task", str), ("latency_budget_ms", float))
        if LaunchConfiguration(name).perform(context)
    }
    autostart = ParameterValue(LaunchConfiguration("autostart"), value_type=bool)
    return [
        Node(
            package="ramnas",
            executable="perception_node",
            name="perception",
            namespace=LaunchConfiguration("namespace"),
            output="screen",
            parameters=[LaunchConfiguration("params_file"), {**overrides, "autostart": autostart}],
            remappings=[("image", LaunchConfiguration("image_topic"))],
        )
    ]
