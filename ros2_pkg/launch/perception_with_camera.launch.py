"""Launch arguments -> a camera driver and the perception node on its images."""

from __future__ import annotations

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

SHARE = Path(get_package_share_directory("ramnas"))


def generate_launch_description() -> LaunchDescription:
    arguments = {
        "camera_package": ("v4l2_camera", "package of the camera's driver"),
        "camera_executable": ("v4l2_camera_node", "its executable"),
        "camera_params_file": (str(SHARE / "config" / "camera.yaml"), "its parameters"),
        "image_topic": ("image_raw", "topic on which the driver publishes"),
        "namespace": ("", "of both nodes"),
    }
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=default, description=description)
                for name, (default, description) in arguments.items()
            ),
            # its other arguments are taken from the command line as they are
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(str(SHARE / "launch" / "perception.launch.py")),
                launch_arguments=[
                    (name, LaunchConfiguration(name)) for name in ("image_topic", "namespace")
                ],
            ),
            # after the include, which sets the environment of both: the transport has two ends
            Node(
                package=LaunchConfiguration("camera_package"),
                executable=LaunchConfiguration("camera_executable"),
                name="camera",
                namespace=LaunchConfiguration("namespace"),
                output="screen",
                parameters=[LaunchConfiguration("camera_params_file")],
            ),
        ]
    )
