"""Launch arguments -> a camera driver, and the perception node that works on its images."""

from __future__ import annotations

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

SHARE = Path(get_package_share_directory("ramnas"))

# argument -> (default, description)
ARGUMENTS = {
    "camera_package": ("v4l2_camera", "package of the camera driver"),
    "camera_executable": ("v4l2_camera_node", "executable of the camera driver"),
    "camera_params_file": (
        str(SHARE / "config" / "camera.yaml"),
        "file with the parameters of the camera driver",
    ),
    "image_topic": ("image_raw", "topic on which the driver publishes its images"),
    "namespace": ("", "namespace of both nodes"),
}


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=default, description=description)
                for name, (default, description) in ARGUMENTS.items()
            ),
            # the other arguments of that file reach it from the command line by themselves
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(str(SHARE / "launch" / "perception.launch.py")),
                launch_arguments=[
                    (name, LaunchConfiguration(name)) for name in ("image_topic", "namespace")
                ],
            ),
            # after the include, which sets the transport profile that both processes need
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
