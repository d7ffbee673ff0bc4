"""ROS 2 images to frames, and results to ROS 2 messages. Only the two nodes import rclpy."""
