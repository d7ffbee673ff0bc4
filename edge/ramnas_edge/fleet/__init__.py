"""Working for a host over ZeroMQ: blocks of archs come in, records go back."""
