"""The ROS 2 side: messages to frames and back. Only the node itself meets rclpy."""
