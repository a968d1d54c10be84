"""What the channel needs of this host: memory, processes, descriptors, the kernel."""
