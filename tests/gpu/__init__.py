"""One script that checks and times ramnas on a GPU and prints one table: tests/gpu/run.sh."""
