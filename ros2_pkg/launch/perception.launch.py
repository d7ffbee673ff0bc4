"""Launch arguments -> the perception node, with shared memory in which images fit."""

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


def generate_launch_description() -> LaunchDescription:
    variables, warning = environment(CONFIG / "fastdds_image.xml")
    return LaunchDescription(
        [
            *(SetEnvironmentVariable(name, value) for name, value in variables.items()),
            *([LogInfo(msg=f"warning: {warning}")] if warning else []),
            _argument("bundle", "", "folder of the models; empty: as params_file says"),
            _argument("task", "", "detection, segmentation or both; empty: as params_file says"),
            _argument(
                "latency_budget_ms", "",
                "p90 of the work on one frame, 0 for none; empty: as params_file says",
            ),
            _argument("image_topic", "image", "topic of the camera's sensor_msgs/Image"),
            _argument("namespace", "", "of the node, and of topics that do not begin with /"),
            _argument("autostart", "true", "configure and activate the node at once"),
            _argument("params_file", str(CONFIG / "perception.yaml"), "parameters of the node"),
            OpaqueFunction(function=_node),
        ]
    )  # fmt: skip


def _argument(name: str, default: str, description: str) -> DeclareLaunchArgument:
    return DeclareLaunchArgument(name, default_value=default, description=description)


def _node(context: LaunchContext) -> list[Node]:
    given = {
        # text stays text: a folder may be called 2026
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
            parameters=[LaunchConfiguration("params_file"), {**given, "autostart": autostart}],
            remappings=[("image", LaunchConfiguration("image_topic"))],
        )
    ]
