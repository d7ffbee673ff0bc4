"""Work for a host: blocks of archs come in, records go back over ZeroMQ."""
