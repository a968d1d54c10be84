"""What the processes of a cluster do with their host: addresses, ports, child processes."""
